"""A stand-in for a module's `time`."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """A clock whose sleeps pass at once; `during` is called in each."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.during: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during()
