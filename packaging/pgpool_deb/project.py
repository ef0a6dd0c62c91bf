"""Where things are in a checkout of this project, and which version of it this is."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Project:
    """A checkout."""

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
        """What the user takes away."""
        return self.path / "dist"

    @property
    def version(self) -> str:
        """The project's own version, which is the cluster package's; raises UsageError where there is none."""
        path = self.path / "pyproject.toml"
        try:
            return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
        except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
            hint = "the cluster package takes its version from [project] there"
            raise UsageError(f"{path}: no version can be read: {error}", hint=hint) from error

    def templates(self, source_package: str) -> Path:
        """The templates of debian/ of a source package."""
        return self.path / "debian-templates" / source_package
