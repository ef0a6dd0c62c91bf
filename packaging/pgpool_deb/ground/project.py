"""The paths in a checkout of this project, and the project's version."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Project:
    """A checkout of this project."""

    path: Path

    @property
    def releases(self) -> Path:
        """The release table; $PGPOOL_DEB_RELEASES names another one."""
        chosen = os.environ.get("PGPOOL_DEB_RELEASES")
        return Path(chosen) if chosen else self.path / "packaging" / "releases.toml"

    @property
    def sources(self) -> Path:
        """The pinned upstream releases; $PGPOOL_DEB_SOURCES names another file."""
        chosen = os.environ.get("PGPOOL_DEB_SOURCES")
        return Path(chosen) if chosen else self.path / "packaging" / "sources.toml"

    @property
    def dist(self) -> Path:
        """The folder for the packages and reports."""
        return self.path / "dist"

    @property
    def version(self) -> str:
        """The project's version, which is also the cluster package's; raises UsageError if it cannot be read."""
        path = self.path / "pyproject.toml"
        try:
            return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
        except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
            hint = "set version in [project]; the cluster package uses it"
            raise UsageError(f"{path}: the version cannot be read: {error}", hint=hint) from error

    def templates(self, source_package: str) -> Path:
        """Return the folder with the templates of a source package's debian/."""
        return self.path / "debian-templates" / source_package
