"""A box is one entered root in which a package is built; an engine provides it.

Every engine guarantees the same. /build holds the source and the output of the commands. /cache outlives the box, and
boxes of the same release and trust share it. A box has no network. Its host name is `builder`, and commands run as the
user `builder` (uid 1000). So the same source gives the same packages with either engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pgpool_deb.ground import compiler_caches, namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner

from .roots import BUILD_USER, ROOT_USER, Root, entering

ENVIRONMENT = {
    "PATH": "/usr/lib/ccache:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/build",
    "LC_ALL": "C.UTF-8",
    "CCACHE_DIR": "/cache/ccache",
    "CCACHE_NOCOMPRESS": "1",
    "CCACHE_MAXSIZE": "2G",
    # The compiler reports the headers it read (-MD), so ccache need not run the preprocessor to learn them. A build
    # with an empty cache is then hardly slower than one without ccache.
    "CCACHE_DEPEND": "1",
    "DEB_CPPFLAGS_APPEND": "-MD",
}
OWN = ["chown", "-R", "builder:builder", "/build", "/cache"]


class Box(Protocol):
    """One entered root; the same box is entered again by every `run`."""

    def put(self, source: Path) -> None:
        """Copy the contents of the folder `source` into /build."""

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        """Run `argv` in /build as the user builder; raises what Runner.run raises."""

    def get(self, destination: Path) -> None:
        """Copy the regular files directly in /build to the folder `destination`."""

    def shell(self) -> list[str]:
        """Return the command that opens a shell in /build of this box."""

    def remove(self) -> None:
        """Remove the box and everything in it."""


class Engine(Protocol):
    """A provider of boxes."""

    @property
    def name(self) -> str:
        """`chroot` or `docker`."""

    @property
    def place(self) -> str:
        """The endpoint as the user named it, "" if the user named none."""

    @property
    def cores(self) -> int:
        """The number of jobs that a build may run at once."""

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> Box:
        """Return a new box called `name` over `root`, after removing the box of that name of an earlier run.

        Boxes of the same `trust` share a /cache (compiler_caches.py); without a trust, boxes of the same name do.
        """

    def forget(self, name: str) -> None:
        """Remove the box called `name` of an earlier run, if there is one; raises MachineError."""


@dataclass(frozen=True, slots=True)
class ChrootBox:
    """A box that is an overlay on this machine, entered with chroot; it needs no daemon."""

    root: Root
    place: Path
    cache: Path

    def put(self, source: Path) -> None:
        """Copy the contents of the folder `source` into /build."""
        build = self.place / "build"
        shutil.copytree(source, build, dirs_exist_ok=True)
        build.chmod(0o755)  # `run` gives it to the build user, and `get` must still read it

    def run(self, argv: Sequence[str], runner: Runner) -> None:
        """Run `argv` in /build as the user builder; raises what Runner.run raises."""
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
        """Remove the box and everything in it."""
        namespaces.remove(self.place)

    def _enter(self, user: str) -> list[str]:
        binds = [(self.place / "build", "/build"), (self.cache, "/cache")]
        return [*namespaces.as_root(confined=True), *entering(self.root, self.place, user, binds, confined=True)]


@dataclass(frozen=True, slots=True)
class ChrootEngine:
    """Boxes made of an overlay and chroot, by root or by a plain user in a user namespace."""

    cache: Cache
    name: str = "chroot"
    place: str = ""

    @property
    def cores(self) -> int:
        """The number of this machine's cores."""
        return os.cpu_count() or 1

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> ChrootBox:
        """Return a new box called `name` over `root`, after removing the box of that name of an earlier run."""
        self.forget(name)
        place = self.cache.private("boxes") / name
        (place / "build").mkdir(parents=True)
        trust = trust or compiler_caches.trust_in(name)
        return ChrootBox(root, place, compiler_caches.folder(self.cache, root.release, trust, runner))

    def forget(self, name: str) -> None:
        """Remove the box called `name` of an earlier run, if there is one."""
        namespaces.remove(self.cache.folder("boxes") / name)


def in_build(argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in /build with exactly the environment of builds."""
    variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    return ["env", "-i", "--chdir=/build", *variables, *argv]
