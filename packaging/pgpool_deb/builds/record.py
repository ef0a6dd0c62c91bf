"""Read a .buildinfo: the source, the path and the environment of a build, the installed packages, and its files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath

from debian.deb822 import BuildInfo

from pgpool_deb.ground.errors import UsageError


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """The fields of a .buildinfo. `sums` maps file names to SHA-256, `installed` has `name=version` of packages."""

    path: Path
    source: str
    version: str
    build_path: str
    environment: Mapping[str, str]
    installed: frozenset[str]
    sums: Mapping[str, str]
    architecture: str
    """The architecture of the build machine."""
    origin: str
    """The vendor that dpkg-buildpackage names: "Debian"."""
    built: datetime | None
    """The time of the build, in UTC."""

    @classmethod
    def read(cls, path: Path) -> BuildRecord:
        """Read a .buildinfo; raises UsageError if a field is missing or a path is not one of our builds."""
        try:
            fields = BuildInfo(path.read_text(encoding="utf-8"))
            sums = {str(row["name"]): str(row["sha256"]) for row in fields["Checksums-Sha256"]}
            source = str(fields["Source"]).partition(" ")[0]
            build_path = str(fields.get("Build-Path", f"/build/{source}"))
            installed = frozenset(_installed(str(fields["Installed-Build-Depends"])))
            environment = dict(_assignments(str(fields.get("Environment", ""))))
            version = str(fields["Version"])
            architecture, origin = str(fields.get("Build-Architecture", "")), str(fields.get("Build-Origin", ""))
            date = fields.get("Build-Date")
            built = parsedate_to_datetime(str(date)).astimezone(UTC) if date else None
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"{path} is not a valid .buildinfo file: {error}", hint="get the .buildinfo file again"
            ) from error
        plain_names = all("/" not in name and not name.startswith(".") for name in (*sums, source))
        if not plain_names or PurePosixPath(build_path).parts[:2] != ("/", "build"):
            raise UsageError(
                f"{path} contains paths that no build of this project has", hint="verify only packages of this project"
            )
        return cls(path, source, version, build_path, environment, installed, sums, architecture, origin, built)

    @property
    def dsc(self) -> Path:
        """The source package's .dsc, which lies beside the .buildinfo."""
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
