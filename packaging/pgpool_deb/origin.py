"""What a source package is made of: upstream's tarball, our debian/, and the patches in it.

Nothing here is checked but that it can be read: walk.py does that, and `publish` has done it.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Dsc

from .errors import UsageError
from .pins import Pin, Pins

_UPSTREAM = re.compile(r"[^_]+_(?P<version>.+)\.orig\.tar\.[a-z0-9]+")
_OF_DEBIAN = re.compile(r"(?:[^/]+/)?(?P<path>debian/(?:copyright|patches/(?:series|[^/]+\.patch)))")
_PATCHES = "debian/patches/"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that a .dsc names, with the SHA-256 that it says."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch by its path in the source package; the sums are empty where the series names what is not there."""

    path: str
    sha256: str = ""
    sha1: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a .dsc names. A native package has no tarball of upstream's; the last archive is the one with debian/."""

    dsc: Path
    archives: tuple[Archive, ...]

    @classmethod
    def read(cls, dsc: Path) -> Origin:
        """Read a .dsc; raises UsageError where it is none, or names a file that is not beside it."""
        try:
            with dsc.open(encoding="utf-8") as handle:
                rows = Dsc(handle)["Checksums-Sha256"]
            archives = tuple(sorted((Archive(row["name"], row["sha256"]) for row in rows), key=_upstream_first))
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{dsc} cannot be read as a .dsc: {error}", hint="get the source package anew") from error
        if not archives or any("/" in one.name for one in archives):
            raise UsageError(f"{dsc} names no files beside it", hint="get the source package anew")
        return cls(dsc, archives)

    @property
    def upstream(self) -> Archive | None:
        """Upstream's tarball."""
        first = self.archives[0]
        return first if _UPSTREAM.fullmatch(first.name) else None

    @property
    def upstream_version(self) -> str:
        """The version that the name of upstream's tarball has; "" where there is none."""
        found = _UPSTREAM.fullmatch(self.archives[0].name)
        return found["version"] if found else ""

    @property
    def packaging(self) -> Archive:
        """The archive with debian/."""
        return self.archives[-1]

    def debian(self) -> Debian:
        """Read the archive with debian/; raises UsageError where it cannot be read."""
        path = self.dsc.with_name(self.packaging.name)
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    named = _OF_DEBIAN.fullmatch(member.name)
                    stream = tar.extractfile(member) if named and member.isfile() else None
                    if named and stream is not None:
                        found[named["path"]] = stream.read()
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UsageError(f"{path} cannot be unpacked: {error}", hint="get the source package anew") from error
        return Debian(tuple(_patches(found)), found.get("debian/copyright", b"").decode(errors="replace"))

    def pin(self, pins: Pins) -> Pin | None:
        """Return the pin of upstream's version, whether its tarball is this one or not."""
        return next((pin for pin in pins.pins if pin.version == self.upstream_version), None)

    def address(self, pins: Pins) -> str:
        """Return where upstream has the tarball; "" where it is not the pinned one, or no address is known."""
        pin = self.pin(pins)
        if pin is None or self.upstream is None or pin.sha256 != self.upstream.sha256:
            return ""
        found = next((one for one in pins.addresses if "{mirror}" not in one), "")
        return found.format(version=pin.version)


@dataclass(frozen=True, slots=True)
class Debian:
    """What of debian/ is told of: patches in the order of their series, and the text of debian/copyright."""

    patches: tuple[Patch, ...]
    copyright: str


def _upstream_first(archive: Archive) -> tuple[bool, str]:
    return not _UPSTREAM.fullmatch(archive.name), archive.name


def _patches(found: dict[str, bytes]) -> list[Patch]:
    """Return the patches that the series names, all that are there where there is no series."""
    series = found.pop(f"{_PATCHES}series", None)
    names = sorted(path for path in found if path.startswith(_PATCHES))
    if series is not None:
        lines = (line.partition("#")[0].split() for line in series.decode(errors="replace").splitlines())
        names = [f"{_PATCHES}{words[0]}" for words in lines if words]
    return [_patch(path, found.get(path)) for path in names]


def _patch(path: str, data: bytes | None) -> Patch:
    if data is None:
        return Patch(path)
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()  # SPDX asks for it of every file
    return Patch(path, hashlib.sha256(data).hexdigest(), sha1)
