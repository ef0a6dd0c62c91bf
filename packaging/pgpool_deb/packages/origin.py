"""Read the parts of a source package: upstream's tarball, our debian/, and the patches in it.

This module only parses; walk.py verifies the hashes, and `publish` has verified them.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Dsc

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.upstream.pins import Pin, Pins

_UPSTREAM = re.compile(r"[^_]+_(?P<version>.+)\.orig\.tar\.[a-z0-9]+")
_OF_DEBIAN = re.compile(r"(?:[^/]+/)?(?P<path>debian/(?:copyright|patches/(?:series|[^/]+\.patch)))")
_PATCHES = "debian/patches/"


@dataclass(frozen=True, slots=True)
class DscFile:
    """A file that a .dsc names, with its SHA-256 there."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class AppliedPatch:
    """A patch by its path in the source package; its hashes are empty if the series names a missing file."""

    path: str
    sha256: str = ""
    sha1: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """The archives of a .dsc. A native package has no upstream tarball; the last archive contains debian/."""

    dsc: Path
    archives: tuple[DscFile, ...]

    @classmethod
    def read(cls, dsc: Path) -> Origin:
        """Read a .dsc; raises UsageError if it is malformed or names no files beside it."""
        try:
            with dsc.open(encoding="utf-8") as handle:
                rows = Dsc(handle)["Checksums-Sha256"]
            archives = tuple(sorted((DscFile(row["name"], row["sha256"]) for row in rows), key=_upstream_first))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{dsc} is not a valid .dsc file: {error}", hint="get the source package again") from error
        if not archives or any("/" in archive.name for archive in archives):
            raise UsageError(f"{dsc} lists no files, or files in other folders", hint="get the source package again")
        return cls(dsc, archives)

    @property
    def upstream(self) -> DscFile | None:
        """Upstream's tarball."""
        first = self.archives[0]
        return first if _UPSTREAM.fullmatch(first.name) else None

    @property
    def upstream_version(self) -> str:
        """The version in the name of upstream's tarball, "" without one."""
        match = _UPSTREAM.fullmatch(self.archives[0].name)
        return match["version"] if match else ""

    @property
    def packaging(self) -> DscFile:
        """The archive with debian/."""
        return self.archives[-1]

    def debian(self) -> Debian:
        """Read the archive with debian/; raises UsageError if it cannot be read."""
        path = self.dsc.with_name(self.packaging.name)
        contents: dict[str, bytes] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    match = _OF_DEBIAN.fullmatch(member.name)
                    stream = tar.extractfile(member) if match and member.isfile() else None
                    if match and stream is not None:
                        contents[match["path"]] = stream.read()
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UsageError(f"{path} cannot be unpacked: {error}", hint="get the source package again") from error
        return Debian(tuple(_patches(contents)), contents.get("debian/copyright", b"").decode(errors="replace"))

    def pin(self, pins: Pins) -> Pin | None:
        """Return the pin of upstream's version, even if its tarball is another one."""
        return next((pin for pin in pins.pins if pin.version == self.upstream_version), None)

    def address(self, pins: Pins) -> str:
        """Return upstream's address of the tarball, "" if it is not the pinned one or no address is known."""
        pin = self.pin(pins)
        if pin is None or self.upstream is None or pin.sha256 != self.upstream.sha256:
            return ""
        own = next((address for address in pins.addresses if "{mirror}" not in address), "")
        return own.format(version=pin.version)


@dataclass(frozen=True, slots=True)
class Debian:
    """The parts of debian/ that bills and walks name: patches in the order of the series, and debian/copyright."""

    patches: tuple[AppliedPatch, ...]
    copyright: str


def _upstream_first(archive: DscFile) -> tuple[bool, str]:
    return not _UPSTREAM.fullmatch(archive.name), archive.name


def _patches(contents: dict[str, bytes]) -> list[AppliedPatch]:
    """Return the patches that the series names, or all patches if there is no series."""
    series = contents.pop(f"{_PATCHES}series", None)
    names = sorted(path for path in contents if path.startswith(_PATCHES))
    if series is not None:
        lines = (line.partition("#")[0].split() for line in series.decode(errors="replace").splitlines())
        names = [f"{_PATCHES}{words[0]}" for words in lines if words]
    return [_patch(path, contents.get(path)) for path in names]


def _patch(path: str, data: bytes | None) -> AppliedPatch:
    if data is None:
        return AppliedPatch(path)
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()  # SPDX requires it for every file
    return AppliedPatch(path, hashlib.sha256(data).hexdigest(), sha1)
