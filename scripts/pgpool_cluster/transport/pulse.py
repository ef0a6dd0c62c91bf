"""Feed systemd's watchdog (WatchdogSec= of the unit) while the agent makes progress.

Parts of the agent promise their next progress: its loop, a long operation in the loop, since a copy can take hours,
and the watch for signs of life. If one of them breaks its promise, it is stuck, even if other threads still answer.
Then this module stops feeding the watchdog, and systemd restarts the agent.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time

from .channel import notify

ROUND_SECONDS = 900.0
"""Longer than one round of the loop can take, since all its waits have deadlines."""
PROGRESS_SECONDS = 1800.0
"""How long a copy may show no progress, as during a checkpoint of its source or the deletion of the old data."""
_PARTS = 6e6
"""WATCHDOG_USEC divided by this is the pause in seconds between two feedings, a sixth of the time limit."""
_LOOP = "loop"
_promised: dict[str, float] = {}
"""When the next progress of each part is due, by the monotonic clock."""
_lock = threading.Lock()


def beat(seconds: float = ROUND_SECONDS, part: str = _LOOP) -> None:
    """Report progress of a part, and promise the next `beat` within `seconds`."""
    with _lock:
        _promised[part] = time.monotonic() + seconds


def end(part: str) -> None:
    """Take back the promise of a part that ends."""
    with _lock:
        _promised.pop(part, None)


class Feeder:
    """Feeds the watchdog; does nothing without WatchdogSec=. One thread uses it."""

    def __init__(self) -> None:
        limit = os.environ.get("WATCHDOG_USEC", "")
        self._pause = int(limit) / _PARTS if limit.isdecimal() else None
        self._next = float("-inf")
        beat()
        if self._pause is not None:
            faulthandler.enable()  # systemd ends a stuck agent with SIGABRT; this logs the stack of every thread

    def feed(self) -> None:
        """Feed the watchdog if that is due and all promises are kept."""
        now = time.monotonic()
        if self._pause is None or now < self._next:
            return
        self._next = now + self._pause
        with _lock:
            kept = all(now < until for until in _promised.values())
        if kept:
            notify("WATCHDOG=1", wait=False)  # the fence must not wait for systemd
