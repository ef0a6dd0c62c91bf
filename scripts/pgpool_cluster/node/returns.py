"""Limit a node's tries to return as a standby by itself, and report the failed ones in `status`.

Each try that fails doubles the pause before the next one. After MOST_TRIES, the node waits for an administrator. A
start of the agent, another primary or another cluster.yml begins a new series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..ground.errors import ClusterError
from .retries import Retries

MOST_TRIES = 8
"""Together with the pauses, the tries take at least 15 minutes."""


@dataclass(slots=True)
class Returns(Retries):
    """The failed tries of one node. The pauses also apply after the last one, to a node with nothing to lose."""

    without_pause: ClassVar[int] = 0

    def failed(self, error: ClusterError) -> None:
        """Note why a try failed."""
        with self._lock:
            self.note_failure(error, 1 if self.of_another_file else self.count + 1)

    def hurry(self) -> None:
        """Begin a new series now, as an administrator requests."""
        self.end()

    @property
    def exhausted(self) -> bool:
        """Whether all tries have failed."""
        with self._lock:
            return self.count >= MOST_TRIES and not self.of_another_file

    @property
    def said(self) -> str:
        """A message with a hint for the administrator; "" if the last try has not failed."""
        with self._lock:
            if not self.count:
                return ""
            following = "it was the last one" if self.exhausted else f"the next is at {self.at}"
            tries = f"try {self.count} of {MOST_TRIES} to become a standby of {self.source} has failed"
            return f"{tries}, {following}: {self.reason}; hint: {self.hint}"
