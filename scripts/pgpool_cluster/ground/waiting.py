"""Wait for a condition that only repeated queries can show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll(query: Callable[[], T], *, until: Callable[[T], object] = bool, seconds: float, pause: float) -> T:
    """Call `query` until `until` accepts its result, for at most `seconds`; return the last result.

    The result tells the caller whether the wait succeeded: after the deadline, it is one that `until` does not accept.
    `query` runs at least once, and once more at the deadline. `pause`: seconds between two calls. An error of `query`
    ends the wait.
    """
    deadline = time.monotonic() + seconds
    while not until(found := query()) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(pause, left))
    return found
