"""The folder of a repository: files that never change, and one pointer that is switched atomically by one rename.

    pool/main/p/pgpool2/…      every published file; none is overwritten
    snapshot/<time>/dists/…    the indexes of one state; unchanged ones are hard links to the previous state
    snapshot/<time>/pool       a symbolic link to pool/, which holds every file that a state names
    current                    the pointer: a symbolic link to the newest snapshot
    dists, index.html, keyring symbolic links through `current`
    repository.json            the metadata of the repository: `format` and `url`

A writer creates a state below .partial-PID/, renames it when it is complete, and then replaces `current`. A writer that
is killed leaves the old or the new state, and at most files that no index names. The next writer removes incomplete
files. Complete ones are replaced by new files of the same name, and `prune` removes them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import MachineError, UsageError
from pgpool_deb.ground.progress import Report

from . import mark, pool, shape
from .pool import PARTIAL, Found, all_flushed, flushed
from .shape import BEHIND_POINTER, POINTER
from .stanzas import PoolFile

AS_IT_WAS = "check the free disk space; the repository is unchanged"


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder with one of our repositories; `url` is its URL for clients, from the next state on."""

    path: Path
    url: str
    new: list[Path] = field(default_factory=list, compare=False)
    """Files that were added to the pool, and that no state names yet."""

    @classmethod
    def open(cls, path: Path, url: str | None = None) -> Repository:
        """Return the repository in a folder; raises UsageError if it is not one of ours, or was tampered with.

        If `url` differs from the stored one, clients receive the new URL with the next state.
        """
        path = path.absolute()
        known = mark.url_of(path)
        shape.refuse_other(path)
        return cls(path, mark.address(url) if url is not None else known)

    @classmethod
    def begin(cls, path: Path, url: str | None) -> Repository:
        """Return the repository in a folder, and create it if the folder is missing or empty.

        `url` is the URL of the folder for clients, by default its file: URL. It is stored, and a later `url` replaces
        it. Raises UsageError if the folder holds anything else, MachineError if it cannot be written.
        """
        path = path.absolute()
        address = mark.address(url) if url is not None else None
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()} - {".lock"}
            if names and mark.NAME not in names:
                raise UsageError(
                    f"{path} contains files that are not of a repository", hint="name a new or empty folder with --to"
                )
            if not names:
                atomic.write(path / mark.NAME, mark.text(address or mark.address_of(path)))
            found = cls.open(path, url)
            (path / "pool").mkdir(exist_ok=True)
            (path / shape.STATES).mkdir(exist_ok=True)
            for name in BEHIND_POINTER:
                if not (path / name).is_symlink():
                    (path / name).symlink_to(f"{POINTER}/{name}")
        except OSError as error:
            raise MachineError(
                f"{error.filename or path}: {error.strerror}",
                hint="name a folder with --to in which this user may write",
            ) from error
        return found

    @contextmanager
    def locked(self, report: Report) -> Iterator[None]:
        """Hold the repository's lock; reports if it has to wait. The kernel releases the lock when a writer ends.

        If the block fails, files that no state names yet are removed from the pool. Raises UsageError if the lock is no
        regular file, MachineError if the machine fails.
        """
        with _lock(self.path / ".lock") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = handle.read().strip() or "?"
                report(f"waiting for the run with process id {holder}, which is writing to {self.path}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                handle.seek(0)
                handle.truncate(0)
                handle.write(f"{os.getpid()}\n")
                handle.flush()
                self._sweep()
                yield
            except Exception as error:
                for path in self.new:
                    path.unlink(missing_ok=True)
                if isinstance(error, OSError | subprocess.CalledProcessError):
                    raise _machine_error(self.path, error) from error
                raise

    @property
    def state(self) -> Path | None:
        """The folder of the state that clients see; None if nothing has been published."""
        pointer = self.path / POINTER
        return pointer.resolve() if pointer.is_symlink() and pointer.exists() else None

    @property
    def moved_from(self) -> str | None:
        """The URL that clients still use, if it differs from `url`; else None."""
        known = mark.url_of(self.path)
        return known if known != self.url else None

    @property
    def states(self) -> tuple[Path, ...]:
        """The folders of all states, oldest first."""
        return shape.states(self.path)

    @contextmanager
    def writing(self, moment: int) -> Iterator[Path]:
        """Yield a folder for the state of this time; when the block has succeeded, clients see the state.

        Clients reach it through the pointer. For the first state, the pointer is created before the state, so a killed
        run never leaves states without a pointer.
        """
        name = named(moment)
        partial = self.path / f"{PARTIAL}{os.getpid()}"
        partial.mkdir()
        try:
            (partial / "state").mkdir()
            (partial / "state" / "pool").symlink_to("../../pool")
            yield partial / "state"
            all_flushed([str(path) for path in (partial / "state").rglob("*") if not path.is_symlink()], self.path)
            (partial / mark.NAME).write_text(mark.text(self.url), encoding="utf-8")
            (partial / POINTER).symlink_to(f"{shape.STATES}/{name}")
            first = not self.states
            if first:
                (partial / POINTER).replace(self.path / POINTER)
            (partial / "state").rename(self.path / shape.STATES / name)
            if first:
                self.new.clear()
            flushed(self.path / shape.STATES)
            if self.moved_from is not None:
                (partial / mark.NAME).replace(self.path / mark.NAME)
            if not first:
                (partial / POINTER).replace(self.path / POINTER)
            self.new.clear()
            flushed(self.path)
        except OSError as error:
            raise _machine_error(self.path, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def find(self, file: PoolFile) -> Found:
        """Return whether the pool has this file, another one of its name, or none.

        Raises UsageError if the existing one is not a regular file.
        """
        return pool.find(self.path, file)

    def drop(self, file: PoolFile) -> None:
        """Remove a file of the pool that no state names."""
        (self.path / file.path).unlink()

    def admit(self, files: Sequence[tuple[Path | bytes, PoolFile]]) -> None:
        """Add checked files, or their bytes, to the pool.

        A file gets its name only after it is complete and flushed to the disk. Raises UsageError if a path is a
        symbolic link or no regular file, MachineError if it cannot be written, for example because the disk is full.
        """
        try:
            for path in pool.admit(self.path, files):
                self.new.append(path)
        except OSError as error:
            raise _machine_error(self.path, error) from error

    def _sweep(self) -> None:
        """Remove the incomplete files that killed writers left, and states that clients never saw."""
        for left in self.path.glob(f"{PARTIAL}*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        seen = self.state
        for state in self.states:
            if seen is not None and state.name > seen.name:
                shutil.rmtree(state)


def named(moment: int) -> str:
    """Return the name of the state of `moment`, in seconds since 1970."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")


def moment_of(state: Path) -> int:
    """Return the time of a state, parsed from its name, in seconds since 1970."""
    return int(datetime.strptime(state.name, "%Y%m%dT%H%M%S%z").timestamp())


@contextmanager
def _lock(path: Path) -> Iterator[TextIO]:
    """Open the lock file; raises UsageError if it is not a regular file, MachineError if it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UsageError(f"{path} is not a regular file", hint="remove it; publish creates a new one") from error
        raise MachineError(
            f"{path}: {error.strerror}", hint="run this command as a user with write permission"
        ) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{path} is not a regular file", hint="remove it; publish creates a new one")
    with os.fdopen(handle, "r+", encoding="ascii", errors="replace") as stream:
        yield stream


def _machine_error(path: Path, error: OSError | subprocess.CalledProcessError) -> MachineError:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return MachineError(f"{error.cmd[0]} failed: {lines[-1] if lines else error.returncode}", hint=AS_IT_WAS)
    return MachineError(f"{error.filename or path}: {error.strerror}", hint=AS_IT_WAS)
