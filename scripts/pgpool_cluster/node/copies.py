"""Back off when copies keep failing for the same reason, and report that in `status`.

Every copy reads the whole primary, only to fail like the one before. The second copy follows at once; after that, the
pause doubles each time.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from time import localtime, monotonic, strftime, time

from ..ground import paths
from ..ground.errors import ClusterError

_BACK_OFF_FROM_COPY = 2
"""Number of failures for the same reason after which copies pause."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 10.0, 300.0


@dataclass(slots=True)
class Copies:
    """The results of this node's copies: copying.py calls `begin` and `end`, and its caller calls `failed`."""

    source: str = ""
    count: int = 0
    """The number of consecutive failures for the same reason."""
    _kind: str = ""
    _reason: str = ""
    _hint: str = ""
    _laid: str = ""
    _next: float = 0.0
    """When the next copy is due, by the monotonic clock."""
    _at: str = ""
    _under_way: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def begin(self, source: str) -> None:
        """Note that a copy of `source` is replacing this node's data."""
        with self._lock:
            if source != self.source:
                self.count = 0
            self.source, self._under_way = source, True

    def end(self) -> None:
        """Note that the copy has succeeded."""
        with self._lock:
            self.count, self._under_way = 0, False

    def failed(self, error: ClusterError) -> None:
        """Note why a copy failed; an error before `begin`, such as an unreachable source, does not count."""
        with self._lock:
            if self._under_way:
                self._count(error)

    def _count(self, error: ClusterError) -> None:
        kind = re.sub(r"\d+", "#", error.message)
        self.count = self.count + 1 if kind == self._kind else 1
        self._kind, self._reason, self._hint, self._under_way = kind, error.message, error.hint, False
        self._laid = paths.laid_file()
        pause = 0.0
        if self.count >= _BACK_OFF_FROM_COPY:
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (self.count - _BACK_OFF_FROM_COPY))
        self._next = monotonic() + pause
        self._at = strftime("%H:%M:%S", localtime(time() + pause))

    def hurry(self) -> None:
        """Make the next copy due now."""
        with self._lock:
            self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether the next copy may begin: the pause is over, or another cluster.yml has been applied since."""
        with self._lock:
            return self.count < _BACK_OFF_FROM_COPY or monotonic() >= self._next or paths.laid_file() != self._laid

    @property
    def said(self) -> str:
        """A message with a hint for the administrator; "" until two copies have failed for the same reason."""
        with self._lock:
            return self._said() if self.count >= _BACK_OFF_FROM_COPY else ""

    def _said(self) -> str:
        retry = "is retried now" if self._under_way or self.due else f"is retried at {self._at}"
        times = f"{self.count} copies of {self.source} have failed for the same reason, and the copy {retry}"
        return f"{times}: {self._reason}; hint: {self._hint}"
