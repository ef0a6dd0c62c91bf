"""Back off when copies keep failing for the same reason, and report that in `status`.

Every copy reads the whole primary, only to fail like the one before. The second copy follows at once; after that, the
pause doubles each time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from ..ground.errors import ClusterError
from .retries import Retries


@dataclass(slots=True)
class Copies(Retries):
    """The copies of this node that failed for the same reason.

    copying.py calls `begin` and `end`, and its caller calls `failed`.
    """

    without_pause: ClassVar[int] = 1
    _kind: str = ""
    _under_way: bool = False

    def begin(self, source: str) -> None:
        """Note that a copy of `source` is replacing this node's data."""
        with self._lock:
            Retries.begin(self, source)
            self._under_way = True

    def end(self) -> None:
        """Note that the copy has succeeded."""
        with self._lock:
            Retries.end(self)
            self._under_way = False

    def failed(self, error: ClusterError) -> None:
        """Note why a copy failed; an error before `begin`, such as an unreachable source, does not count."""
        with self._lock:
            if not self._under_way:
                return
            kind = re.sub(r"\d+", "#", error.message)
            self.note_failure(error, self.count + 1 if kind == self._kind else 1)
            self._kind, self._under_way = kind, False

    def hurry(self) -> None:
        """Make the next copy due now."""
        with self._lock:
            self._next = 0.0

    @property
    def said(self) -> str:
        """A message with a hint for the administrator; "" until two copies have failed for the same reason."""
        with self._lock:
            if self.count <= self.without_pause:
                return ""
            retry = "is retried now" if self._under_way or self.due else f"is retried at {self.at}"
            times = f"{self.count} copies of {self.source} have failed for the same reason, and the copy {retry}"
            return f"{times}: {self.reason}; hint: {self.hint}"
