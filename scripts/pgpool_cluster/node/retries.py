"""Count failures in a row, and pause longer after each of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from time import localtime, monotonic, strftime, time
from typing import ClassVar

from ..ground import paths
from ..ground.errors import ClusterError

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0


@dataclass(slots=True)
class Retries:
    """The failures of a work that copies from `source`. Several threads use it."""

    without_pause: ClassVar[int]
    """The number of failures in a row after which the work is retried at once."""
    source: str = ""
    count: int = 0
    """The number of failures in a row."""
    reason: str = ""
    hint: str = ""
    at: str = ""
    """The time of day at which the next try is due."""
    _laid: str = ""
    _next: float = 0.0
    """When the next try is due, by the monotonic clock."""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def begin(self, source: str) -> None:
        """Note that a try begins. Another source begins a new series."""
        with self._lock:
            if source != self.source:
                self.count = 0
            self.source = source

    def end(self) -> None:
        """Note that a try has succeeded."""
        with self._lock:
            self.count = 0

    def note_failure(self, error: ClusterError, count: int) -> None:
        """Note the failure number `count` of a series."""
        self.count, self.reason, self.hint, self._laid = count, error.message, error.hint, paths.laid_file()
        doublings = count - 1 - self.without_pause
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**doublings) if doublings >= 0 else 0.0
        self._next, self.at = monotonic() + pause, strftime("%H:%M:%S", localtime(time() + pause))

    @property
    def of_another_file(self) -> bool:
        """Whether another cluster.yml has been applied since the last failure."""
        return bool(self.count) and paths.laid_file() != self._laid

    @property
    def due(self) -> bool:
        """Whether the next try may begin: the pause is over, or another cluster.yml has been applied since."""
        with self._lock:
            return self.count <= self.without_pause or self.of_another_file or monotonic() >= self._next
