"""Stop and continue the processes of this node's pgpool-II that serve its clients, one process a client.

pgpool-II starts these processes in advance, and each accepts its next client itself (src/protocol/child.c). Its title
says what it does. While all of them are stopped, new connections wait in the kernel's backlog instead of being refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from ..ground.waiting import poll
from . import process_watch

_PROC = Path("/proc")
_LONGEST_FILE = 1 << 16
_PREFIX = "pgpool: "
_WAITING = ("wait for connection request", "wait for accept lock")
_ACCEPTING = "accept connection"
_LOCAL = " [local] "
_ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals by which pgpool-II's main process ends such a process."""
_MOST_AT_ONCE = 100
_STOP_SECONDS = 0.1
_STOP_PAUSE_SECONDS = 0.0005
_ACCEPTED = ("01", "08")
"""ESTABLISHED and CLOSE_WAIT, the states of a client's connection in /proc/net/tcp (net/tcp_states.h)."""


class Doing(Enum):
    """The activity of a process of pgpool-II."""

    WAITING = "it waits for a client"
    IDLE = "its client has no open transaction and no running statement"
    BUSY = "its client has an open transaction or a running statement, or is logging in"
    OTHER = "it serves no clients"


def doing(title: str) -> Doing:
    """Return what a process with this title does. A client's title is `pgpool: USER DATABASE HOST(PORT) ACTIVITY`."""
    activity = title.removeprefix(_PREFIX)
    if activity == title:
        return Doing.OTHER
    if activity in _WAITING:
        return Doing.WAITING
    if activity == _ACCEPTING:
        return Doing.BUSY
    if activity.startswith("PCP: ") or activity.count(" ") < 3:
        return Doing.OTHER
    return Doing.IDLE if activity.endswith(" idle") else Doing.BUSY


def by_tcp(title: str) -> bool:
    """Return whether the title is that of a process with a client that is connected by TCP."""
    return doing(title) in (Doing.IDLE, Doing.BUSY) and _LOCAL not in title


def main() -> int:
    """Return the process id of pgpool-II's main process; 0 if it does not run, or not as this user."""
    held = process_watch.pool()
    if held is None:
        return 0
    with contextlib.closing(held):
        return held.pid


def children(parent: int) -> list[int]:
    """Return the processes that `parent` has started; one that has just begun may be missing."""
    return [int(word) for word in _text(_PROC / f"{parent}/task/{parent}/children").split()]


def title(pid: int) -> str:
    """Return the title of a process; "" if it does not exist."""
    return _text(_PROC / f"{pid}/cmdline").partition("\0")[0].rstrip()


def stop(titles: Mapping[int, str], parent: int) -> frozenset[int]:
    """Stop processes that wait for a client, or whose client is idle; return those that are stopped and still so.

    `titles`: the title of each process when it was chosen. A process that has begun to do something else before it
    stopped is continued at once.
    """
    with contextlib.ExitStack() as stack:
        held = {pid: stack.enter_context(_held(pid)) for pid in list(titles)[:_MOST_AT_ONCE]}
        sent = {pid: handle for pid, handle in held.items() if handle is not None and _halts(pid, handle, parent)}
        poll(lambda: all(map(process_watch.is_frozen, sent)), seconds=_STOP_SECONDS, pause=_STOP_PAUSE_SECONDS)
        free = frozenset(pid for pid in sent if process_watch.is_frozen(pid) and title(pid) == titles[pid])
        for pid, handle in sent.items():
            if pid not in free:
                _send(handle, signal.SIGCONT)
        return free


def _halts(pid: int, handle: int, parent: int) -> bool:
    """Stop a process if it is a child of `parent`; return whether it was."""
    return process_watch.parent_of(pid) == parent and _send(handle, signal.SIGSTOP)


def _send(handle: int, number: signal.Signals) -> bool:
    """Send a signal to a process, and return whether the process still existed."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)
        return True
    return False


def ends(pid: int) -> bool:
    """Return whether a process has ended, or has been sent a signal that ends it as soon as it continues."""
    if not process_watch.is_left(pid):
        return True
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", _text(_PROC / f"{pid}/status"), re.MULTILINE)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in pending for number in _ENDING)


def go_on(pid: int) -> None:
    """Let a process continue."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGCONT)


def release() -> list[int]:
    """Let every stopped process of this user's pgpool-II that serves clients continue, and return them.

    It finds those of an earlier run of the agent, too, and those whose main process has died.
    """
    found = [pid for pid in _numbers() if process_watch.is_frozen(pid) and _serves_clients(pid)]
    for pid in found:
        go_on(pid)
    return found


def accepted(port: int) -> int:
    """Return the number of TCP connections to this port that a process has accepted; one in the backlog has no inode.

    Raises OSError if the kernel's table cannot be read.
    """
    suffix, count = f":{port:04X}", 0
    for table in ("net/tcp", "net/tcp6"):
        rows = (line.split() for line in _lines(_PROC / table))
        count += sum(row[1].endswith(suffix) and row[3] in _ACCEPTED and row[9] != "0" for row in rows if len(row) > 9)
    return count


def _serves_clients(pid: int) -> bool:
    with contextlib.suppress(OSError):
        own = (_PROC / str(pid)).stat().st_uid == os.geteuid()
        return own and process_watch.name_of(pid) == "pgpool" and doing(title(pid)) is not Doing.OTHER
    return False


def _numbers() -> list[int]:
    return [int(one.name) for one in _PROC.iterdir() if one.name.isdecimal()]


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int | None]:
    """Hold a process by pidfd; yields None if it has ended."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):  # without IPv6
        return file.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    return []


def _text(file: Path) -> str:
    """Return the beginning of a file of /proc; "" if the process has ended."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(handle, _LONGEST_FILE).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(handle)
