"""A stand-in for threads that finishes their work before `start` returns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any


class _Now:
    """A thread whose `start` runs it to its end."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...] = (), **_: object) -> None:
        self.start = partial(target, *args)

    def is_alive(self) -> bool:
        return False


AT_ONCE = SimpleNamespace(Thread=_Now, Lock=threading.Lock)
"""A stand-in for a module's `threading`."""
