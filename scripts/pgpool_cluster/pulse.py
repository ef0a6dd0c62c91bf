"""Word to systemd's watchdog (WatchdogSec= of the unit) that the agent lives.

It lives while its loop goes round, or while what holds the loop makes progress: a copy holds it for hours. Else the
loop is stuck, though other threads may answer: then nothing is said any more, and systemd starts the agent anew.
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
"""More than a round of the loop can take: all that it waits for has an end."""
PROGRESS_SECONDS = 1800.0
"""How long a copy may be without a sign of progress: a checkpoint of its source, an old data directory's removal."""
_good_until = [0.0]


def beat(seconds: float = ROUND_SECONDS) -> None:
    """Say that the loop, or what holds it, has come here, and will come to the next `beat` within `seconds`."""
    _good_until[0] = time.monotonic() + seconds


@contextlib.contextmanager
def feeding() -> Iterator[None]:
    """Feed the watchdog for as long as the block runs and beats come; nothing happens where systemd wants none."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    over = threading.Event()
    beat()

    def feed() -> None:
        while not over.wait(int(wanted) / 4e6):
            if time.monotonic() < _good_until[0]:
                notify("WATCHDOG=1")

    if wanted.isdecimal():
        faulthandler.enable()  # at its end, by SIGABRT, the journal has where every thread was
        threading.Thread(target=feed, daemon=True).start()
    try:
        yield
    finally:
        over.set()
