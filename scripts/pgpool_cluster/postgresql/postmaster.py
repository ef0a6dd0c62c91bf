"""End this node's server by signals: as fast as it can, or at once, as a power cut would."""

from __future__ import annotations

import contextlib
import os
import signal

from ..ground import paths
from ..ground.waiting import poll
from ..machine import process_watch
from ..machine.server import Instance

LEFT = "PostgreSQL does not end although it was killed"
LEFT_HINT = "a disk may hang: dmesg; ps -eo stat,pid,args | grep ^D"
_END_SECONDS = 2.0
_END_PAUSE_SECONDS = 0.01


def runs(instance: Instance) -> bool:
    """Return whether the server has a main process, whatever its state."""
    held = process_watch.postmaster(instance.data)
    if held is not None:
        held.close()
    return held is not None


def end(instance: Instance, *, seconds: float) -> bool:
    """Have the server disconnect its clients, write its last checkpoint and end (fast shutdown).

    Returns whether it has ended within `seconds`. Its standbys that receive have all of its WAL by then.
    """
    held = process_watch.postmaster(instance.data)
    if held is None:
        return True
    with contextlib.closing(held):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(held.handle, signal.SIGINT)
        return held.await_end(seconds)


def kill(instance: Instance) -> bool:
    """Kill all processes of the server, and return whether none is left after 2 s.

    Works for a server that is stopped by a signal, or that waits for its clients. Its next start replays its WAL.
    """
    held = process_watch.postmaster(instance.data)
    if held is None:
        return True
    paths.STOPPED.touch()
    with contextlib.closing(held):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(held.handle, signal.SIGSTOP)  # so that it starts no further process
        every = [*process_watch.children(held.pid), held.pid]
        for number in every:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    return poll(lambda: not any(map(process_watch.is_left, every)), seconds=_END_SECONDS, pause=_END_PAUSE_SECONDS)
