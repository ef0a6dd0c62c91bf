"""Remember a node's last facts, and for how long it has been too busy to collect new ones."""

from __future__ import annotations

import threading
import time

from ..decision.facts.facts import NodeFacts


class LastFacts:
    """The last facts that were collected within the time limit. Several threads use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._facts: NodeFacts | None = None
        self._late_since = 0.0
        """Since when, by the monotonic clock, collecting facts has exceeded its time limit; 0 if it does not."""

    def renew(self, facts: NodeFacts) -> NodeFacts:
        """Remember these facts, which were collected in time, and return them."""
        with self._lock:
            self._facts, self._late_since = facts, 0.0
        return facts

    def late(self) -> tuple[NodeFacts | None, float]:
        """Note that collecting facts takes too long. Return the last facts, or None, and for how many seconds."""
        with self._lock:
            now = time.monotonic()
            self._late_since = self._late_since or now
            return self._facts, now - self._late_since
