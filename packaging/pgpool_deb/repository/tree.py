"""The folder of a repository: files that never change, and one pointer that is switched with one rename.

    pool/main/p/pgpool2/…      every file ever published; none is written twice
    snapshot/<time>/dists/…    the indexes of one state; what did not change is a hard link to the state before
    snapshot/<time>/pool       a symbolic link to pool/, which holds whatever a state names
    current                    the pointer: a symbolic link to the newest snapshot
    dists, index.html, keyring symbolic links through `current`
    repository.json            what the repository is: `format` and `url`

A state is written beside, below .partial-PID/, and gets its name when it is whole. Then `current` is replaced. A writer
that is killed leaves the old or the new state, and at most files that no index names: half files are swept by the next
writer, whole ones give way to others of their name, and `prune` removes them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pgpool_deb import atomic
from pgpool_deb.errors import MachineError, UsageError

from . import mark, pool, shape
from .pool import PARTIAL, Found, all_flushed, flushed
from .shape import BEHIND_POINTER, POINTER
from .stanzas import PoolFile

AS_IT_WAS = "is there room? The repository is as it was"


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder that holds a repository of ours; `url` is where clients find it, from the next state on."""

    path: Path
    url: str
    new: list[Path] = field(default_factory=list, compare=False)
    """Files that were put into the pool, and that no state names yet."""

    @classmethod
    def open(cls, path: Path, url: str | None = None) -> Repository:
        """Return the repository in a folder; raises UsageError where it is none of ours, or was tampered with.

        With another `url` than it has, clients are told of that one with the next state.
        """
        path = path.absolute()
        known = mark.url_of(path)
        shape.refuse_other(path)
        return cls(path, mark.address(url) if url is not None else known)

    @classmethod
    def begin(cls, path: Path, url: str | None) -> Repository:
        """Return the repository in a folder, which is made where it is missing or empty.

        `url` is where clients find the folder, a file: address of it by default. It is remembered; another one that is
        given later takes its place. Raises UsageError where the folder holds anything else.
        """
        path = path.absolute()
        address = mark.address(url) if url is not None else None
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()} - {".lock"}
            if names and mark.NAME not in names:
                raise UsageError(
                    f"{path} holds other things than a repository", hint="--to takes a new or an empty folder"
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
                f"{error.filename or path}: {error.strerror}", hint="--to takes a folder that this user can write"
            ) from error
        return found

    @contextmanager
    def locked(self, report: Callable[[str], None]) -> Iterator[None]:
        """Hold the repository's lock, which the kernel takes back from a writer that ends; a wait is reported.

        Where the block fails, files that no state names yet leave the pool again. Raises UsageError and MachineError.
        """
        with _lock(self.path / ".lock") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(
                    f"waiting for the run with process id {handle.read().strip() or '?'}, which writes to {self.path}"
                )
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
        """The folder of the state that clients see; None where nothing has been published."""
        pointer = self.path / POINTER
        return pointer.resolve() if pointer.is_symlink() and pointer.exists() else None

    @property
    def moved_from(self) -> str | None:
        """The address that clients know yet, where it is another one."""
        known = mark.url_of(self.path)
        return known if known != self.url else None

    @property
    def states(self) -> tuple[Path, ...]:
        """The folders of all states that are kept, oldest first."""
        return shape.states(self.path)

    @contextmanager
    def writing(self, moment: int) -> Iterator[Path]:
        """Yield a folder for the state of this time; once the block has ended well, clients see it.

        The pointer is what they see it by. Before there is any state it is made first, so states without a pointer are
        never what a killed run left.
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
        """Tell what the pool has under the name of a file; raises UsageError where that is no regular file."""
        return pool.find(self.path, file)

    def drop(self, file: PoolFile) -> None:
        """Remove a file of the pool that no state names."""
        (self.path / file.path).unlink()

    def admit(self, files: Sequence[tuple[Path | bytes, PoolFile]]) -> None:
        """Put files that were checked, or their bytes, into the pool.

        None has its name before it is whole and on the disk. Raises UsageError where a name leads elsewhere,
        MachineError where the disk is full.
        """
        try:
            for path in pool.admit(self.path, files):
                self.new.append(path)
        except OSError as error:
            raise _machine_error(self.path, error) from error

    def _sweep(self) -> None:
        """Remove what killed writers left: half files, and states that clients never saw."""
        for left in self.path.glob(f"{PARTIAL}*"):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        seen = self.state
        for state in self.states:
            if seen is not None and state.name > seen.name:
                shutil.rmtree(state)


def named(moment: int) -> str:
    """Return the name of the state of a time, in seconds since 1970."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")


def moment_of(state: Path) -> int:
    """Return the time of a state by its name, in seconds since 1970."""
    return int(datetime.strptime(state.name, "%Y%m%dT%H%M%S%z").timestamp())


@contextmanager
def _lock(path: Path) -> Iterator[TextIO]:
    """Open the file whose lock a writer holds; raises UsageError where it is anything else than a file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UsageError(f"{path} is no regular file", hint="remove it: publish makes its own") from error
        raise MachineError(f"{path}: {error.strerror}", hint="a writer needs a folder that it can write") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{path} is no regular file", hint="remove it: publish makes its own")
    with os.fdopen(handle, "r+", encoding="ascii", errors="replace") as stream:
        yield stream


def _machine_error(path: Path, error: OSError | subprocess.CalledProcessError) -> MachineError:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return MachineError(f"{error.cmd[0]} failed: {said[-1] if said else error.returncode}", hint=AS_IT_WAS)
    return MachineError(f"{error.filename or path}: {error.strerror}", hint=AS_IT_WAS)
