"""Threads in place of the real ones, for code whose work is to be done when it returns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace


class _Now:
    """A thread that has ended when it is started."""

    def __init__(self, target: Callable[[], None], **_: object) -> None:
        self.start = target

    def is_alive(self) -> bool:
        return False


AT_ONCE = SimpleNamespace(Thread=_Now, Lock=threading.Lock)
"""To be put in the place of a module's `threading`."""
