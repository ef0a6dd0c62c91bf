"""Share the result of work among concurrent callers: it runs once at a time, in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """The result of `work`, valid for `kept` seconds.

    The result of a run that takes more than `limit` seconds is discarded. Such a run may hang for ever, for example in
    the kernel: no caller waits for it any longer, but no second run starts beside it either.
    """

    def __init__(self, work: Callable[[], T], *, kept: float, limit: float) -> None:
        self._work, self._kept, self._limit = work, kept, limit
        self._changed = threading.Condition()
        self._forgotten = 0
        """The number of calls of `forget`."""
        self._running = 0.0
        """When the current run began; 0 if there is none."""
        self._found: Callable[[], T] | None = None
        """Returns the result of the last run or raises its error; None if it is unusable."""
        self._knows = -1
        """The value of `_forgotten` when that run began."""
        self._ended = self._until = 0.0
        """When that run ended, and until when its result is valid for later callers."""

    def forget(self) -> None:
        """Invalidate the result: from now on, callers get the result of a run that begins after this call."""
        with self._changed:
            self._forgotten += 1

    def prepare(self) -> None:
        """Begin a run in the background if the next `get` would have to begin one."""
        with self._changed:
            if self._good(self._forgotten, time.monotonic()) is None and not self._running:
                self._begin()

    def get(self) -> T:
        """Return the result, or raise the error of `work`; raises TimeoutError if a run takes too long."""
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
    """Run `work`; return a function that returns its result or raises its error, and whether it succeeded."""
    try:
        value = work()
    except Exception as error:
        caught = error

        def fail() -> T:
            raise caught

        return fail, False
    return lambda: value, True
