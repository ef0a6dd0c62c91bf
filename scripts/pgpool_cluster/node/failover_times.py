"""Measure the stages of a failover on the node that is promoted."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..decision.liveness.links import Link

PATIENCE_SECONDS = 10.0
"""How long the report waits for this node's pgpool-II."""
LOST, CLAIMED, PROMOTED, POOLED = "lost", "claimed", "promoted", "pgpool-II"


@dataclass(frozen=True, slots=True)
class FailoverReport:
    """The stages of a failover with their seconds, in order. `failed`: the former primary, "" if it is unknown."""

    failed: str
    stages: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """The sum of the stages."""
        return sum(seconds for _, seconds in self.stages)

    @property
    def text(self) -> str:
        """The stages as one line."""
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.stages)
        return f"failover{f' of {self.failed}' if self.failed else ''}: {stages}"


@dataclass(slots=True)
class FailoverTimes:
    """The stages of the latest failover to this node. Several threads use it."""

    _failed: str = ""
    _stages: list[tuple[str, float]] = field(default_factory=list)
    _last: float | None = None
    """When the last stage ended, by the monotonic clock; None while there is nothing to measure or to report."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, failed: str | None, links: Mapping[str, Link]) -> None:
        """Begin with the stage `lost`: from the last sign of life of the former primary until this moment.

        A standby that an earlier attempt has cut off no longer knows its primary, so the last known name is kept.
        """
        with self._lock:
            self._failed, self._last = failed or self._failed, time.monotonic()
            link = links.get(self._failed)
            ended = -math.inf if link is None else link.ended if link.ended > -math.inf else link.heard
            self._stages = [(LOST, self._last - ended)] if ended > -math.inf else []

    def drop(self) -> None:
        """Measure nothing, because an administrator has requested the promotion."""
        with self._lock:
            self._failed, self._stages, self._last = "", [], None

    def stage(self, name: str) -> None:
        """Note that a stage has ended."""
        with self._lock:
            now, last = time.monotonic(), self._last
            if last is not None:
                self._stages.append((name, now - last))
                self._last = now

    def pooled(self) -> None:
        """Note that this node's pgpool-II sends writes to this node, if that ends a failover."""
        with self._lock:
            if self._ended(PROMOTED):
                self.stage(POOLED)

    def report(self, *, pooled: bool) -> FailoverReport | None:
        """Return the report once after each promotion. `pooled`: no pgpool-II here has to learn of it any more."""
        with self._lock:
            late = self._last is not None and time.monotonic() - self._last > PATIENCE_SECONDS
            if not (self._ended(POOLED) or (self._ended(PROMOTED) and (pooled or late))):
                return None
            found = FailoverReport(self._failed, tuple(self._stages))
            self.drop()
            return found

    def _ended(self, name: str) -> bool:
        return bool(self._stages) and self._stages[-1][0] == name
