"""The Debian releases to build packages for, read from packaging/releases.toml.

Only that file names releases: a new row adds a release. `ReleaseTable.load` checks the file and turns its rows into
frozen `Release`s. It raises a `UsageError` that names the file and the key of the first fault.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from .errors import UsageError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
PackageGlob = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*][a-z0-9.+*-]*$")]
SuiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9./-]*$")]


class State(StrEnum):
    """The state of a Debian release in its life cycle."""

    SUPPORTED = "supported"
    TESTING = "testing"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class ExtraSource:
    """An additional apt source of a release; the `uri` "mirror" means the Debian mirror in use."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None
    trusted: bool
    priority: int | None
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release: the contents of its roots, and the versions of its packages."""

    name: str
    number: int
    state: State
    distribution: str
    postgresql: tuple[int, ...]
    suites: tuple[str, ...]
    check_valid_until: bool
    archive: str | None
    extra: tuple[ExtraSource, ...]

    @property
    def suffix(self) -> str:
        """The end of our packages' versions, which increases with the release's number.

        It has no dot, because lintian considers a version with one a non-maintainer upload (nmu.pm).
        """
        return f"deb{self.number}+1"


@dataclass(frozen=True, slots=True)
class Revision:
    """The Debian revision of our packages and its time in seconds since 1970."""

    number: int
    timestamp: int

    def of(self, release: Release) -> str:
        """Return the Debian revision for `release`, which sorts above Debian's own and by the release's number."""
        return f"{self.number}+{release.suffix}"


@dataclass(frozen=True, slots=True)
class ReleaseTable:
    """All rows of releases.toml, in the file's order."""

    releases: tuple[Release, ...]
    revision: Revision

    @classmethod
    def load(cls, path: Path) -> ReleaseTable:
        """Read and check releases.toml; raises UsageError that names the file, the key and the reason."""
        try:
            rows = _ReleasesFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError) as error:
            hint = "see the comment at the top of packaging/releases.toml"
            raise UsageError(f"{path}: {error}", hint=hint) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UsageError(
                f"{path}: {place}: {first['msg']}", hint="see the comment at the top of that file"
            ) from error
        moment = datetime(rows.packaging.date.year, rows.packaging.date.month, rows.packaging.date.day, 12, tzinfo=UTC)
        revision = Revision(rows.packaging.revision, int(moment.timestamp()))
        return cls(tuple(row.release(name) for name, row in rows.release.items()), revision)

    def named(self, name: str) -> Release:
        """Return the release called `name`; raises UsageError that lists the known releases."""
        for release in self.releases:
            if release.name == name:
                return release
        known = ", ".join(release.name for release in self.releases)
        raise UsageError(f"unknown release: {name}", hint=f"releases.toml lists {known}")

    def select(self, names: Iterable[str], machine: str) -> tuple[Release, ...]:
        """Return the releases called `names` without duplicates; without names, the default for a machine.

        The default is the machine's own release (`machine` is its VERSION_CODENAME) if the table has it, else the
        newest supported one.
        """
        chosen = tuple(dict.fromkeys(self.named(name) for name in names))
        if chosen:
            return chosen
        own = [release for release in self.releases if release.name == machine]
        return tuple(own) or (self.stable,)

    @property
    def stable(self) -> Release:
        """The newest supported release."""
        supported = [release for release in self.releases if release.state is State.SUPPORTED]
        if not supported:
            raise UsageError("releases.toml lists no supported release", hint='set state = "supported" in one row')
        return max(supported, key=lambda release: release.number)


class _ReleasesModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PackagingRow(_ReleasesModel):
    revision: Annotated[int, Field(ge=1)]
    date: date


class _ExtraRow(_ReleasesModel):
    uri: str
    suites: Annotated[list[SuiteName], Field(min_length=1)]
    components: list[Name] = ["main"]
    signed_by: str | None = None
    trusted: bool = False
    priority: Annotated[int, Field(ge=1, le=1000)] | None = None
    packages: Annotated[list[PackageGlob], Field(min_length=1)] = ["*"]

    def source(self) -> ExtraSource:
        return ExtraSource(
            uri=self.uri,
            suites=tuple(self.suites),
            components=tuple(self.components),
            signed_by=self.signed_by,
            trusted=self.trusted,
            priority=self.priority,
            packages=tuple(self.packages),
        )


class _ReleaseRow(_ReleasesModel):
    number: Annotated[int, Field(ge=1)]
    state: State
    distribution: Name | None = None
    postgresql: Annotated[list[Annotated[int, Field(ge=10, le=99)]], Field(min_length=1)]
    suites: Annotated[list[SuiteName], Field(min_length=1)]
    check_valid_until: bool = True
    archive: str | Literal["debian"] = "debian"
    extra: list[_ExtraRow] = []

    def release(self, name: str) -> Release:
        return Release(
            name=name,
            number=self.number,
            state=self.state,
            distribution=self.distribution or name,
            postgresql=tuple(sorted(set(self.postgresql))),
            suites=tuple(self.suites),
            check_valid_until=self.check_valid_until,
            archive=None if self.archive == "debian" else self.archive,
            extra=tuple(row.source() for row in self.extra),
        )


class _ReleasesFile(_ReleasesModel):
    packaging: _PackagingRow
    release: Annotated[dict[Name, _ReleaseRow], Field(min_length=1)]


def machine_release(os_release: Path = Path("/etc/os-release")) -> str:
    """Return this machine's VERSION_CODENAME, "" if it has none (os-release(5))."""
    try:
        lines = os_release.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = dict(line.split("=", 1) for line in lines if "=" in line)
    return pairs.get("VERSION_CODENAME", "").strip("\"'")
