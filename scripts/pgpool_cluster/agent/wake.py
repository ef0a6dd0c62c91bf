"""A pause that another thread or a signal handler can end."""

from __future__ import annotations

import contextlib
import queue


class Wake:
    """An interruptible pause. A signal handler can end it, too; with threading.Event, it could deadlock."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """End the current pause, or the next one if there is none."""
        self._calls.put(None)

    def wait(self, seconds: float) -> None:
        """Pause for `seconds`, or until `set` is called."""
        with contextlib.suppress(queue.Empty):
            self._calls.get(timeout=seconds)
            while True:
                self._calls.get_nowait()
