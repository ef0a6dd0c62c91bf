"""The end of a pause."""

from __future__ import annotations

import contextlib
import queue


class Wake:
    """Ends a pause; also from a signal handler, which would wait for itself in a threading.Event that is in use."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """End the pause that goes on, or the next."""
        self._calls.put(None)

    def wait(self, seconds: float) -> None:
        """Pause for `seconds`, or until somebody ends that."""
        with contextlib.suppress(queue.Empty):
            self._calls.get(timeout=seconds)
            while True:
                self._calls.get_nowait()
