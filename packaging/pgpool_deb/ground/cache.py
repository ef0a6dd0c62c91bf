"""The cache folder keeps roots, tarballs, compiler caches and results. Losing it costs time, never correctness."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from .errors import MachineError
from .progress import Report

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by the pgpool-II packaging toolkit; may be removed.\n"


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache folder; its methods create the folders they return."""

    path: Path

    @classmethod
    def open(cls) -> Cache:
        """Return the user's cache ($PGPOOL_DEB_CACHE, else pgpool-deb in XDG's cache folder), tagged for backups."""
        chosen = os.environ.get("PGPOOL_DEB_CACHE")
        path = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("pgpool-deb"))
        if "\n" in str(path):
            raise MachineError(
                "the path of the cache folder contains a line feed",
                hint="set PGPOOL_DEB_CACHE=/path to use another folder",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "CACHEDIR.TAG").write_text(TAG, encoding="utf-8")
        except OSError as error:
            raise MachineError(
                f"the cache folder {path} cannot be written: {error.strerror}",
                hint="free some space there, or set PGPOOL_DEB_CACHE=/path to use another folder",
            ) from error
        return cls(path.resolve())

    def folder(self, *names: str) -> Path:
        """Return a folder of the cache, created if missing."""
        path = self.path.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def private(self, name: str) -> Path:
        """Return a folder of the cache, created if missing, that no other user of the machine can enter.

        Boxes build as uid 1000. If root runs the build, that uid usually belongs to a person on the machine.
        """
        path = self.folder(name)
        path.chmod(0o700)
        return path

    @contextmanager
    def locked(self, name: str, report: Report) -> Iterator[None]:
        """Hold the lock called `name`, so that concurrent runs never touch the same files; report a wait for it.

        The kernel releases the lock when its holder ends, even by kill -9.
        """
        path = self.folder("locks") / name
        with path.open("a+", encoding="ascii") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                report(f"waiting for the run with process id {handle.read().strip() or '?'} ({name})")
                fcntl.flock(handle, fcntl.LOCK_EX)
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield
