"""A Debian source package for one release, ready to build: its files, its build dependencies, and its binaries."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from debian.deb822 import Deb822

from pgpool_deb.boxes.box import ENVIRONMENT
from pgpool_deb.ground import compiler_caches
from pgpool_deb.ground.releases import Release
from pgpool_deb.upstream.sources import Source

from . import debianize, fingerprint

RECIPE = Path(__file__).with_name("recipe")


@dataclass(frozen=True, eq=False)
class SourcePackage:
    """A source package for one release. Two with equal `inputs` build the same packages."""

    release: Release
    name: str
    """The name of its build on the screen and in file names."""
    source: str
    """The name of the source package in Debian."""
    debian_version: str
    files: Mapping[str, debianize.PackageFile]
    """Our own files, including debian/, by their path in the source tree."""
    orig: Source | None
    """Upstream's tarball; a native package has none."""
    tools: tuple[str, ...]
    """The packages that its builder root needs besides Build-Depends."""
    log: str
    """The file name of its build log in dist/<release>/."""

    @cached_property
    def _control(self) -> tuple[Deb822, ...]:
        return tuple(Deb822.iter_paragraphs(self.files["debian/control"].content.decode()))

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The packages to install in a builder root of this package, as in Build-Depends."""
        relations = [line.strip() for line in self._control[0]["Build-Depends"].replace("\n", " ").split(",")]
        return (*self.tools, *(line for line in relations if line))

    @property
    def binaries(self) -> tuple[str, ...]:
        """The names of the binary packages in debian/control."""
        return tuple(str(paragraph["Package"]) for paragraph in self._control if "Package" in paragraph)

    @property
    def trust(self) -> str:
        """The trust of its build, which selects its compiler cache (compiler_caches.py)."""
        return self.orig.trust if self.orig else compiler_caches.PROVED

    def inputs(self, root_packages: Sequence[str]) -> dict[str, str]:
        """Return all inputs of the build, given the packages of its builder root."""
        upstream = {"pgpool-II": self.orig.version, "the tarball of pgpool-II": self.orig.sha256} if self.orig else {}
        return {
            **upstream,
            "the build recipe": fingerprint.of_file(RECIPE),
            "the build environment": fingerprint.key(ENVIRONMENT),
            **{path: fingerprint.of_bytes(file.content, file.mode) for path, file in self.files.items()},
            **{f"package {name}": version for name, version in (line.split("=", 1) for line in root_packages)},
        }

    def lay_out(self, place: Path) -> None:
        """Put the files, the tarball and the recipe into the folder `place`, which becomes a box's /build."""
        debianize.write(self.files, place / self.source)
        if self.orig:
            shutil.copyfile(self.orig.tarball, place / self.orig.orig_name)
        shutil.copy(RECIPE, place / "recipe")
