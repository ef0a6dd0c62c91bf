"""Copies that fail again and again for one reason: told in `status`, and tried more and more rarely.

Each of them reads all of the primary, and ends where the one before did. The first two follow each other at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import localtime, monotonic, strftime, time

from . import paths
from .errors import ClusterError

_TWICE = 2
_FIRST_SECONDS, _MOST_SECONDS = 10.0, 300.0


@dataclass(slots=True)
class Copies:
    """How this node's copies have gone: `begin` and `end` are called by the copying, `failed` by its caller."""

    source: str = ""
    count: int = 0
    """How many have failed for the same reason, one after the other."""
    _kind: str = ""
    _reason: str = ""
    _hint: str = ""
    _laid: str = ""
    _next: float = 0.0
    """When, by the monotonic clock, the next one is due."""
    _at: str = ""
    _under_way: bool = False

    def begin(self, source: str) -> None:
        """Note that this node's data is being replaced by what `source` has."""
        if source != self.source:
            self.count = 0
        self.source, self._under_way = source, True

    def end(self) -> None:
        """Note that the copy serves."""
        self.count, self._under_way = 0, False

    def failed(self, error: ClusterError) -> None:
        """Note why a copy came to nothing; where none had begun, as no source answered, it is no copy that failed."""
        if not self._under_way:
            return
        kind = re.sub(r"\d+", "#", error.message)
        self.count = self.count + 1 if kind == self._kind else 1
        self._kind, self._reason, self._hint, self._under_way = kind, error.message, error.hint, False
        self._laid = paths.laid_file()
        wait = min(_MOST_SECONDS, _FIRST_SECONDS * 2 ** (self.count - _TWICE)) if self.count >= _TWICE else 0.0
        self._next = monotonic() + wait
        self._at = strftime("%H:%M:%S", localtime(time() + wait))

    def hurry(self) -> None:
        """Let the next one be due now."""
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether the next copy may begin: its time has come, or another cluster.yml was laid down since."""
        return self.count < _TWICE or monotonic() >= self._next or paths.laid_file() != self._laid

    @property
    def said(self) -> str:
        """What an administrator is to know of it, with a hint; "" while no copy has failed twice for one reason."""
        if self.count < _TWICE:
            return ""
        now = "is tried again now" if self._under_way or self.due else f"is tried again at {self._at}"
        times = f"{self.count} copies of {self.source} have failed for the same reason, and it {now}"
        return f"{times}: {self._reason}; hint: {self._hint}"
