"""What a .buildinfo says of a build: from what, where, with what installed, and which files came of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath

from debian.deb822 import BuildInfo

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Record:
    """What a .buildinfo says. `sums` are SHA-256 by file names, `installed` is `name=version` of packages."""

    path: Path
    source: str
    version: str
    build_path: str
    environment: Mapping[str, str]
    installed: frozenset[str]
    sums: Mapping[str, str]
    architecture: str
    """That of the machine it was built on."""
    origin: str
    """The vendor that dpkg-buildpackage names: "Debian"."""
    built: datetime | None
    """When it was built, in UTC."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a .buildinfo; raises UsageError for one that says too little, or names a path that is not its own."""
        try:
            found = BuildInfo(path.read_text(encoding="utf-8"))
            sums = {str(row["name"]): str(row["sha256"]) for row in found["Checksums-Sha256"]}
            source = str(found["Source"]).partition(" ")[0]
            build_path = str(found.get("Build-Path", f"/build/{source}"))
            installed = frozenset(_installed(str(found["Installed-Build-Depends"])))
            environment = dict(_assignments(str(found.get("Environment", ""))))
            version = str(found["Version"])
            architecture, origin = str(found.get("Build-Architecture", "")), str(found.get("Build-Origin", ""))
            date = found.get("Build-Date")
            built = parsedate_to_datetime(str(date)).astimezone(UTC) if date else None
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} cannot be read as a .buildinfo: {error}", hint="is it whole?") from error
        named = [*sums, source]
        if any("/" in name or name.startswith(".") for name in named) or PurePosixPath(build_path).parts[:2] != (
            "/",
            "build",
        ):
            raise UsageError(
                f"{path} names paths that no build of ours has", hint="packages of this project are verified"
            )
        return cls(path, source, version, build_path, environment, installed, sums, architecture, origin, built)

    @property
    def dsc(self) -> Path:
        """Its source package, which lies beside it."""
        return self.path.with_name(next(name for name in self.sums if name.endswith(".dsc")))


def _installed(text: str) -> Iterator[str]:
    for word in text.replace("\n", " ").split(","):
        name, _, version = word.strip().partition(" (= ")
        if version:
            yield f"{name.partition(':')[0]}={version.removesuffix(')')}"


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if name.isidentifier():
            yield name, value
