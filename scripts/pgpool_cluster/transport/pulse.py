"""Feed systemd's watchdog (WatchdogSec= of the unit) while the agent makes progress.

The agent makes progress while its loop runs, or while a long operation in the loop does: a copy can take hours.
Otherwise the loop is stuck, even if other threads still answer. Then this module stops feeding the watchdog, and
systemd restarts the agent.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Iterator

from .channel import notify

ROUND_SECONDS = 900.0
"""Longer than one round of the loop can take, since all its waits have deadlines."""
PROGRESS_SECONDS = 1800.0
"""How long a copy may show no progress, as during a checkpoint of its source or the deletion of the old data."""
_good_until = [0.0]


def beat(seconds: float = ROUND_SECONDS) -> None:
    """Report progress, and promise the next `beat` within `seconds`."""
    _good_until[0] = time.monotonic() + seconds


@contextlib.contextmanager
def feeding() -> Iterator[None]:
    """Feed the watchdog while the block runs and beats arrive in time; does nothing without WatchdogSec=."""
    interval = os.environ.get("WATCHDOG_USEC", "")
    over = threading.Event()
    beat()

    def feed() -> None:
        while not over.wait(int(interval) / 4e6):
            if time.monotonic() < _good_until[0]:
                notify("WATCHDOG=1")

    if interval.isdecimal():
        faulthandler.enable()  # systemd ends a stuck agent with SIGABRT; this logs the stack of every thread
        threading.Thread(target=feed, daemon=True).start()
    try:
        yield
    finally:
        over.set()
