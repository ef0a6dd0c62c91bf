"""A box: one entered root in which a package is built, and the engine that provides it.

Every engine gives the same promises: /build holds what was put there and what the commands leave, /cache outlives the
box and is shared by boxes of one release and trust, the network is away, the host is called `builder`, and commands run
as the user `builder` (uid 1000). So the same source gives the same packages with either engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from . import compiler_caches, namespaces
from .cache import Cache
from .command import Runner
from .roots import BUILD_USER, ROOT_USER, Root, entering

ENVIRONMENT = {
    "PATH": "/usr/lib/ccache:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/build",
    "LC_ALL": "C.UTF-8",
    "CCACHE_DIR": "/cache/ccache",
    "CCACHE_NOCOMPRESS": "1",
    "CCACHE_MAXSIZE": "2G",
    # The compiler tells which headers it read (-MD), so ccache need not run the preprocessor to find out: a build that
    # finds nothing in the cache is hardly slower than one without it.
    "CCACHE_DEPEND": "1",
    "DEB_CPPFLAGS_APPEND": "-MD",
}
OWN = ["chown", "-R", "builder:builder", "/build", "/cache"]


class Box(Protocol):
    """One entered root; the same box is entered again by every `run`."""

    def put(self, source: Path) -> None:
        """Copy the contents of the folder `source` into /build."""

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        """Run `argv` in /build as the user builder; raises CommandFailed and its kin."""

    def get(self, destination: Path) -> None:
        """Copy the regular files directly in /build to the folder `destination`."""

    def shell(self) -> list[str]:
        """Return the command that opens a shell in /build of this box."""

    def remove(self) -> None:
        """Throw the box away."""


class Engine(Protocol):
    """What provides boxes."""

    @property
    def name(self) -> str:
        """`chroot` or `docker`."""

    @property
    def place(self) -> str:
        """The endpoint as the user named it; "" where none was named."""

    @property
    def cores(self) -> int:
        """How many jobs of a build it runs at once."""

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> Box:
        """Return a new box called `name` over `root`; one of that name left by an earlier run is removed first.

        Its /cache is that of `trust` (compiler_caches.py); without one, of boxes of that name alone.
        """

    def forget(self, name: str) -> None:
        """Remove the box called `name` that an earlier run left, if there is one; raises MachineError."""


@dataclass(frozen=True, slots=True)
class ChrootBox:
    """A box that is an overlay on this machine, entered by chroot; needs no daemon."""

    root: Root
    place: Path
    cache: Path

    def put(self, source: Path) -> None:
        """Copy the contents of the folder `source` into /build."""
        build = self.place / "build"
        shutil.copytree(source, build, dirs_exist_ok=True)
        build.chmod(0o755)  # soon it is the build user's, and is still to be read here

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        """Run `argv` in /build as the user builder; raises CommandFailed and its kin."""
        runner.run([*self._enter(ROOT_USER), *OWN])
        runner.run([*self._enter(BUILD_USER), *in_build(argv)])

    def get(self, destination: Path) -> None:
        """Copy the regular files directly in /build to the folder `destination`."""
        for path in (self.place / "build").iterdir():
            if path.is_file() and not path.is_symlink():
                shutil.copyfile(path, destination / path.name)

    def shell(self) -> list[str]:
        """Return the command that opens a shell in /build of this box."""
        return [*self._enter(BUILD_USER), *in_build(["bash"])]

    def remove(self) -> None:
        """Throw the box away."""
        namespaces.remove(self.place)

    def _enter(self, user: str) -> list[str]:
        binds = [(self.place / "build", "/build"), (self.cache, "/cache")]
        return [*namespaces.as_root(confined=True), *entering(self.root, self.place, user, binds, confined=True)]


@dataclass(frozen=True, slots=True)
class ChrootEngine:
    """Boxes by overlay and chroot: as root, or as a plain user in a user namespace."""

    cache: Cache
    name: str = "chroot"
    place: str = ""

    @property
    def cores(self) -> int:
        """The cores of this machine."""
        return os.cpu_count() or 1

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> ChrootBox:
        """Return a new box called `name` over `root`; one of that name left by an earlier run is removed first."""
        self.forget(name)
        place = self.cache.private("boxes") / name
        (place / "build").mkdir(parents=True)
        trust = trust or compiler_caches.trust_in(name)
        return ChrootBox(root, place, compiler_caches.folder(self.cache, root.release, trust, runner))

    def forget(self, name: str) -> None:
        """Remove the box called `name` that an earlier run left, if there is one."""
        namespaces.remove(self.cache.folder("boxes") / name)


def in_build(argv: Sequence[str]) -> list[str]:
    """Return `argv` as it runs in every box: in /build, with the environment of builds and nothing else."""
    variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    return ["env", "-i", "--chdir=/build", *variables, *argv]
