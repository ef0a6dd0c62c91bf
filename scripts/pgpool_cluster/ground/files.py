"""Read and write files atomically: a reader sees the whole file or none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import ServerError
from .waiting import poll

_PARTIAL = ".partial"
_LEFTOVER_SECONDS = 60.0
"""Age at which a partial file counts as the leftover of a crash or a power cut."""
_LOCK_PAUSE_SECONDS = 0.02
LARGEST_BYTES = 8 * 2**20
"""The largest file, in bytes, that `read` accepts."""
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
_HINT = "correct that, then run pgpoolctl apply"


class OddFileError(ServerError):
    """A path that should hold a plain file holds something else."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A plain file: its content, owner and mode."""

    content: bytes
    uid: int
    gid: int
    mode: int

    def __repr__(self) -> str:
        return f"PlainFile({len(self.content)} bytes, {self.uid}:{self.gid} {self.mode:04o})"

    @property
    def text(self) -> str:
        """The content as UTF-8; raises ValueError."""
        return self.content.decode("utf-8")


def read(path: Path) -> PlainFile | None:
    """Return a plain file of at most LARGEST_BYTES bytes, None if there is none; never blocks.

    Raises OddFileError for a symbolic link, a FIFO or anything else that is not a plain file, and for a file that is
    too large; ServerError if it cannot be read.
    """
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind != stat.S_IFREG:
            hint = f"rm {path}; pgpoolctl apply"
            raise OddFileError(f"{path} is {_KINDS.get(kind, 'a device')}, not a plain file", hint=hint)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OddFileError(f"{path} is not a plain file", hint=f"rm {path}; pgpoolctl apply")
            content = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = f"chown postgres: {path}; pgpoolctl apply" if isinstance(error, PermissionError) else _HINT
        raise ServerError(f"{path}: {error.strerror}", hint=hint) from error
    if len(content) > LARGEST_BYTES:
        raise OddFileError(f"{path} is larger than {LARGEST_BYTES // 2**20} MB", hint=f"make it smaller; {_HINT}")
    return PlainFile(content, found.st_uid, found.st_gid, found.st_mode & 0o7777)


def kind(path: Path) -> int:
    """Return the file type of a path, links followed (S_IFMT in stat(2)); 0 if there is nothing or it is inaccessible.

    Even root has no access to a file system that another user has mounted (FUSE).
    """
    with contextlib.suppress(OSError):
        return stat.S_IFMT(path.stat().st_mode)
    return 0


def lock(handle: int, path: Path, why: str, *, seconds: float) -> None:
    """Lock an open file (flock(2)); raises ServerError(why) if another process holds the lock for `seconds`."""

    def locked() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if not poll(locked, seconds=seconds, pause=_LOCK_PAUSE_SECONDS):
        raise ServerError(why, hint=f"fuser -v {path} shows the process that has it open")


def write(path: Path, content: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Write `content` to `path` atomically and durably, even across a power loss; `owner` is (uid, gid).

    A symbolic link at `path` is replaced, not followed. Raises ServerError.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                if owner is not None:
                    os.fchown(stream.fileno(), *owner)
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            partial.rename(path)
            sync_folder(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        hint = "free space, or make it writable, then run the same command again"
        raise ServerError(f"{path} cannot be written: {error.strerror}", hint=hint) from error


def sweep(folder: Path) -> None:
    """Delete leftovers of interrupted `write` calls in a folder, which would otherwise accumulate over the years."""
    with contextlib.suppress(OSError):
        for partial in folder.glob(f".*{_PARTIAL}"):
            with contextlib.suppress(OSError):
                if time.time() - partial.lstat().st_mtime > _LEFTOVER_SECONDS:
                    partial.unlink()


def sync_folder(path: Path) -> None:
    """Sync a folder, so that its entries survive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
