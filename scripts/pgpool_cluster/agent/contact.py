"""Remember since when this node has had no contact to a majority, and since when its own server has been crashed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from ..decision import fencing
from ..decision.facts.facts import ClusterFacts, NodeFacts, Postgresql
from ..decision.liveness.links import DEAD_SECONDS
from ..definition.cluster import Cluster

_YIELD_SECONDS = 5.0
"""Seconds for which a crashed primary lets a standby take over before it starts again."""
_HASTE_SECONDS = 10.0
"""Seconds after a node became silent, or the primary was lost, for which the agent decides at short intervals."""
_HASTE_PAUSE_SECONDS = 0.2


@dataclass(slots=True)
class Contact:
    """The memory of one agent's loop from one round to the next; times are by the monotonic clock."""

    _alone_since: float = math.inf
    _crashed_since: float = math.inf
    _silent: frozenset[str] = frozenset()
    _served: bool = False
    """Whether any node took writes."""
    _haste_until: float = -math.inf

    def note(self, cluster: Cluster, facts: ClusterFacts, me: str, now: float) -> None:
        """Note the facts of a round."""
        mine = facts.of(me)
        alone = fencing.is_alone(cluster, fencing.missing(cluster, facts, me))
        # A link counts as lost only after DEAD_SECONDS.
        self._alone_since = min(self._alone_since, now - DEAD_SECONDS) if alone else math.inf
        self._crashed_since = min(self._crashed_since, now) if _crashed(mine) else math.inf
        serves = any(member.writable for member in facts.members(cluster))
        fencing_soon = alone and self.alone_seconds(now) < fencing.FENCE_SECONDS
        if mine.silent - self._silent or fencing_soon or (self._served and not serves):
            self._haste_until = now + _HASTE_SECONDS
        self._silent, self._served = mine.silent, serves

    def alone_seconds(self, now: float) -> float:
        """Return for how long this node has been without contact to a majority."""
        return max(0.0, now - self._alone_since)

    def yields(self, now: float) -> bool:
        """Return whether a standby that can take over comes before a restart of this node's crashed server."""
        return 0.0 <= now - self._crashed_since < _YIELD_SECONDS

    def pause(self, seconds: float) -> float:
        """Return the pause before the next round, which is shorter than `seconds` if a node has just become silent."""
        return min(seconds, _HASTE_PAUSE_SECONDS) if time.monotonic() < self._haste_until else seconds


def _crashed(mine: NodeFacts) -> bool:
    return mine.postgresql is Postgresql.DOWN and mine.position is None and not mine.standby_signal
