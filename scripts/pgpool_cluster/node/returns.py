"""Limit a node's tries to return as a standby by itself, and report the failed ones in `status`.

Each try that fails doubles the pause before the next one. After MOST_TRIES, the node waits for an administrator. A
start of the agent, another primary or another cluster.yml begins a new series.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from time import localtime, monotonic, strftime, time

from ..ground import paths
from ..ground.errors import ClusterError

MOST_TRIES = 8
"""Together with the pauses, the tries take at least 15 minutes."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0


@dataclass(slots=True)
class Returns:
    """The failed tries of one node. Several threads use it."""

    source: str = ""
    count: int = 0
    """The number of consecutive failures."""
    _reason: str = ""
    _hint: str = ""
    _laid: str = ""
    _next: float = 0.0
    """When the next try is due, by the monotonic clock."""
    _at: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def begin(self, source: str) -> None:
        """Note that the node tries to become a standby of `source`."""
        with self._lock:
            if source != self.source:
                self.count = 0
            self.source = source

    def failed(self, error: ClusterError) -> None:
        """Note why a try failed."""
        with self._lock:
            self.count = 1 if self._other_file else self.count + 1
            self._reason, self._hint, self._laid = error.message, error.hint, paths.laid_file()
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (self.count - 1))
            self._next, self._at = monotonic() + pause, strftime("%H:%M:%S", localtime(time() + pause))

    def end(self) -> None:
        """Note that the node is a standby again."""
        with self._lock:
            self.count = 0

    def hurry(self) -> None:
        """Begin a new series now, as an administrator requests."""
        self.end()

    @property
    def due(self) -> bool:
        """Whether the next try may begin. The pauses also apply after the last one, to a node with nothing to lose."""
        with self._lock:
            return not self.count or self._other_file or monotonic() >= self._next

    @property
    def exhausted(self) -> bool:
        """Whether all tries have failed."""
        with self._lock:
            return self.count >= MOST_TRIES and not self._other_file

    @property
    def said(self) -> str:
        """A message with a hint for the administrator; "" if the last try has not failed."""
        with self._lock:
            if not self.count:
                return ""
            following = "it was the last one" if self.exhausted else f"the next is at {self._at}"
            tries = f"try {self.count} of {MOST_TRIES} to become a standby of {self.source} has failed"
            return f"{tries}, {following}: {self._reason}; hint: {self._hint}"

    @property
    def _other_file(self) -> bool:
        return bool(self.count) and paths.laid_file() != self._laid
