"""Work that many ask for at once: one run at a time, in a thread of its own, whose result all of them share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """The result of `work`, good for `kept` seconds.

    A run that takes more than `limit` seconds is of no use to anybody. It may hang for ever, in the kernel for example:
    nobody waits for it, and no other one begins beside it.
    """

    def __init__(self, work: Callable[[], T], *, kept: float, limit: float) -> None:
        self._work, self._kept, self._limit = work, kept, limit
        self._changed = threading.Condition()
        self._forgotten = 0
        """How often `forget` was called."""
        self._running = 0.0
        """When the run that is under way began; 0 if none is."""
        self._found: Callable[[], T] | None = None
        """Returns or raises what the last run came to, while that can be of use."""
        self._knows = -1
        """What `_forgotten` was when that run began."""
        self._ended = self._until = 0.0
        """When that run ended, and until when its result is good for those who ask later."""

    def forget(self) -> None:
        """Whoever asks from now on gets the result of a run that begins from now on."""
        with self._changed:
            self._forgotten += 1

    def prepare(self) -> None:
        """Begin a run, if the next `get` would have to; it can go on while something else is done."""
        with self._changed:
            if self._good(self._forgotten, time.monotonic()) is None and not self._running:
                self._begin()

    def get(self) -> T:
        """Return the result, or raise what `work` raised; TimeoutError where a run takes too long."""
        with self._changed:
            asked, wanted = time.monotonic(), self._forgotten
            while (found := self._good(wanted, asked)) is None:
                if not self._running:
                    self._begin()
                began = self._running
                left = began + self._limit - time.monotonic()
                if left <= 0 or not (self._changed.wait(left) or self._good(wanted, asked)):
                    raise TimeoutError(f"it has taken {time.monotonic() - began:.1f} s")
        return found()

    def _good(self, wanted: int, asked: float) -> Callable[[], T] | None:
        fresh = self._ended >= asked or time.monotonic() < self._until
        return self._found if self._knows >= wanted and fresh else None

    def _begin(self) -> None:
        running = threading.Thread(target=self._run, args=(self._forgotten,), daemon=True)
        self._running = time.monotonic()
        try:
            running.start()
        except RuntimeError:
            self._running = 0.0
            raise

    def _run(self, knows: int) -> None:
        found, kept = _tried(self._work)
        with self._changed:
            now = time.monotonic()
            in_time = now - self._running <= self._limit
            self._found, self._knows = (found, knows) if in_time else (None, -1)
            self._ended, self._until = now, now + (self._kept if kept else 0.0)
            self._running = 0.0
            self._changed.notify_all()


def _tried(work: Callable[[], T]) -> tuple[Callable[[], T], bool]:
    """Return what gives the result of `work` or raises its error, and whether it has a result."""
    try:
        value = work()
    except Exception as error:
        caught = error

        def fail() -> T:
            raise caught

        return fail, False
    return lambda: value, True
