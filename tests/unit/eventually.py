"""Wait for other threads and processes in a test."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(true: Callable[[], object], seconds: float = 10.0) -> bool:
    """Return whether a condition is met within `seconds`, which is for busy machines, and return as soon as it is."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
