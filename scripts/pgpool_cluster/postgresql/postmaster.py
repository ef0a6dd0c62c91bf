"""Find this node's postmaster, and kill the server at once, as a power cut would."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from ..ground import paths
from ..ground.waiting import poll
from ..machine.server import Instance

_PROC = Path("/proc")
_END_SECONDS = 2.0
_END_PAUSE_SECONDS = 0.01


def pid(instance: Instance) -> int:
    """Return the process id of the server's postmaster; 0 if it does not run.

    A crash leaves postmaster.pid behind, and another process may have the number by then. A postmaster's working
    directory is its data directory, and another user's process cannot be inspected.
    """
    try:
        first, *_ = (instance.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        number = int(first)
        ours = (_PROC / str(number) / "cwd").samefile(instance.data) and _state(number) != "Z"
    except (OSError, ValueError):
        return 0
    return number if ours else 0


def kill(instance: Instance) -> bool:
    """Kill all processes of the server, and return whether none is left after 2 s.

    Works for a server that is stopped by a signal, or that waits for its clients. Its next start replays its WAL.
    """
    first = pid(instance)
    if not first:
        return True
    paths.STOPPED.touch()
    _signal(first, signal.SIGSTOP)  # so that it starts no further process
    every = [first, *_children(first)]
    for one in every:
        _signal(one, signal.SIGKILL)
    return poll(
        lambda: not any(_state(one) not in ("", "Z") for one in every), seconds=_END_SECONDS, pause=_END_PAUSE_SECONDS
    )


def _signal(number: int, sent: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, sent)


def _children(parent: int) -> list[int]:
    numbers = (int(one.name) for one in _PROC.iterdir() if one.name.isdigit())
    return [number for number in numbers if _stat(number)[1:] == str(parent)]


def _state(number: int) -> str:
    return _stat(number)[:1]


def _stat(number: int) -> str:
    """Return the state of a process and the id of its parent as one word, such as S17; "" if it does not exist."""
    try:
        text = (_PROC / str(number) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, parent, *_ = text.rpartition(")")[2].split()
    return state + parent
