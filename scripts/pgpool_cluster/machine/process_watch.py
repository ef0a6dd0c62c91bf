"""Hold the main processes of PostgreSQL and pgpool-II by pidfd, which reports their end at once.

A pid file may be stale, and its number may belong to another process by now. So the process is verified after its pidfd
has been opened: if it has not ended by then, the pidfd belongs to the process that was verified.
"""

from __future__ import annotations

import contextlib
import os
import select
from dataclasses import dataclass
from pathlib import Path

from ..ground import paths

_PROC = Path("/proc")
_LONGEST_PID_FILE = 4096
_STATUS_LINE = 7
"""Index of the server's status in postmaster.pid (LOCK_FILE_LINE_PM_STATUS of miscadmin.h, minus 1)."""
_FROZEN = ("T", "t")
"""States of a process that a signal or a debugger has stopped (proc(5))."""


@dataclass(frozen=True, slots=True)
class HeldProcess:
    """A process, and the pidfd that becomes readable when it ends."""

    pid: int
    handle: int

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(0))

    def await_end(self, seconds: float) -> bool:
        """Wait for the end of the process, for at most `seconds`; return whether it has ended."""
        return bool(select.select([self.handle], [], [], seconds)[0])

    @property
    def frozen(self) -> bool:
        """Whether a signal has stopped the process."""
        return is_frozen(self.pid)

    def close(self) -> None:
        """Close the pidfd."""
        os.close(self.handle)


def postmaster(data: Path) -> HeldProcess | None:
    """Return the main process of the server with this data directory; None if it does not run, or not as this user."""
    found = _hold(_pid_in(data / "postmaster.pid"))
    if found is not None and not (_is(found, "postgres") and _works_in(found, data)):
        found.close()
        return None
    return found


def pool() -> HeldProcess | None:
    """Return the main process of pgpool-II; None if it does not run, or not as this user."""
    found = _hold(_pid_in(paths.POOL_PID))
    if found is not None and not _is(found, "pgpool"):
        found.close()
        return None
    return found


def children(parent: int) -> list[int]:
    """Return the child processes of a process."""
    numbers = [int(one.name) for one in _PROC.iterdir() if one.name.isdecimal()]
    return [number for number in numbers if _state_and_parent(number)[1] == parent]


def is_left(pid: int) -> bool:
    """Return whether a process exists that has not ended, as a zombie has."""
    return _state_and_parent(pid)[0] not in ("", "Z", "X")


def is_frozen(pid: int) -> bool:
    """Return whether a signal or a debugger has stopped a process."""
    return _state_and_parent(pid)[0] in _FROZEN


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if the process does not exist."""
    return _state_and_parent(pid)[1]


def name_of(pid: int) -> str:
    """Return the name of a process, as in its file `comm`; "" if the process does not exist."""
    return next(iter(_lines(_PROC / str(pid) / "comm")), "")


def left_its_file(held: HeldProcess, data: Path) -> bool:
    """Return whether an ended server has left postmaster.pid as a running one has it, so it was killed.

    A server that shuts down writes `stopping` into the file, and removes it at the end.
    """
    lines = _lines(data / "postmaster.pid")
    status = lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else ""
    return lines[:1] == [str(held.pid)] and status != "stopping"


def _lines(file: Path) -> list[str]:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(handle, _LONGEST_PID_FILE).decode("ascii", "replace").splitlines()
    except OSError:
        return []
    finally:
        os.close(handle)


def _pid_in(file: Path) -> int:
    """Return the number in the first line of a pid file; 0 if there is none. pgpool-II writes a NUL byte after it."""
    first = next(iter(_lines(file)), "").rstrip("\0").strip()
    return int(first) if first.isascii() and first.isdecimal() and len(first) < 10 else 0


def _hold(pid: int) -> HeldProcess | None:
    if pid <= 1:
        return None
    try:
        return HeldProcess(pid, os.pidfd_open(pid))
    except OSError:
        return None


def _is(held: HeldProcess, name: str) -> bool:
    """Return whether a held process of this user runs, has this name, and is no child of one with the same name."""
    with contextlib.suppress(OSError):
        of_this_user = (_PROC / str(held.pid)).stat().st_uid == os.geteuid()
        parent = parent_of(held.pid)
        return of_this_user and name_of(held.pid) == name and name_of(parent) != name and not held.ended
    return False


def _works_in(held: HeldProcess, data: Path) -> bool:
    """Return whether a process has `data` as its working directory, as the server of that data has, and still runs."""
    with contextlib.suppress(OSError):
        return (_PROC / str(held.pid) / "cwd").readlink() == data.resolve() and not held.ended
    return False


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Return the state and the parent of a process (proc(5)); ("", 0) if it does not exist."""
    text = next(iter(_lines(_PROC / str(pid) / "stat")), "")
    words = text.rpartition(")")[2].split()  # the name before it can contain spaces and brackets
    return (words[0], int(words[1])) if len(words) > 1 and words[1].isdecimal() else ("", 0)
