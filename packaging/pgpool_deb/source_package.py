"""A Debian source package of one release, ready to be built: its files, what its root needs, what it promises."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from debian.deb822 import Deb822

from . import compiler_caches, debianize, fingerprint
from .box import ENVIRONMENT
from .releases import Release
from .sources import Source

RECIPE = Path(__file__).with_name("recipe")


@dataclass(frozen=True, eq=False)
class SourcePackage:
    """One source package, for one release. Two of them make the same packages where their `inputs` are equal."""

    release: Release
    name: str
    """How its build is called on the screen and in file names."""
    source: str
    """What Debian calls the source package."""
    debian_version: str
    files: Mapping[str, debianize.File]
    """Our own files by their path in the source tree, debian/ among them."""
    orig: Source | None
    """Upstream's tarball; a native package has none."""
    tools: tuple[str, ...]
    """What its builder root has installed besides Build-Depends."""
    log: str
    """How its build log is called in dist/<release>/."""

    @cached_property
    def _control(self) -> tuple[Deb822, ...]:
        return tuple(Deb822.iter_paragraphs(self.files["debian/control"].content.decode()))

    @property
    def dependencies(self) -> tuple[str, ...]:
        """What a builder root of this package has installed, as in Build-Depends."""
        wanted = [line.strip() for line in self._control[0]["Build-Depends"].replace("\n", " ").split(",")]
        return (*self.tools, *(line for line in wanted if line))

    @property
    def binaries(self) -> tuple[str, ...]:
        """Names of the binary packages that debian/control promises."""
        return tuple(str(paragraph["Package"]) for paragraph in self._control if "Package" in paragraph)

    @property
    def trust(self) -> str:
        """Whose builds may leave compiled files for its build (compiler_caches.py)."""
        return self.orig.trust if self.orig else compiler_caches.PROVED

    def inputs(self, root_packages: Sequence[str]) -> dict[str, str]:
        """Everything that the packages are made from, given the packages of their builder root."""
        upstream = {"pgpool-II": self.orig.version, "the tarball of pgpool-II": self.orig.sha256} if self.orig else {}
        return {
            **upstream,
            "the build recipe": fingerprint.of_file(RECIPE),
            "the build environment": fingerprint.key(ENVIRONMENT),
            **{path: fingerprint.of_bytes(file.content, file.mode) for path, file in self.files.items()},
            **{f"package {name}": version for name, version in (line.split("=", 1) for line in root_packages)},
        }

    def lay_out(self, place: Path) -> None:
        """Put into the folder `place`, which is to be a box's /build, what the recipe takes: files, tarball, itself."""
        debianize.write(self.files, place / self.source)
        if self.orig:
            shutil.copyfile(self.orig.tarball, place / self.orig.orig_name)
        shutil.copy(RECIPE, place / "recipe")
