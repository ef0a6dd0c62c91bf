"""Remember since when other nodes have been out of contact, and since when this node's own services have been down."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from ..decision import fencing, virtual_address
from ..decision.facts.facts import ClusterFacts, NodeFacts, Postgresql
from ..decision.liveness.links import DEAD_SECONDS
from ..decision.situation import rightful_primary, silent
from ..definition.cluster import Cluster, Service

_YIELD_SECONDS = 5.0
"""Seconds for which a crashed primary lets a standby take over before it starts again."""
_HASTE_SECONDS = 10.0
"""Seconds for which the agent decides at short intervals, after a node became silent or the primary changed."""
_HASTE_PAUSE_SECONDS = 0.2


@dataclass(slots=True)
class Alone:
    """For how long a node has been without contact to a majority; one thread uses it."""

    _since: float = math.inf

    def note(
        self, cluster: Cluster, facts: ClusterFacts, me: str, now: float, unheard: Collection[str] = frozenset()
    ) -> bool:
        """Note facts, and return whether the node is alone by them. `unheard`: as in `fencing.missing`."""
        alone = fencing.is_alone(cluster, fencing.missing(cluster, facts, me, unheard))
        # A link counts as lost only after DEAD_SECONDS.
        self._since = min(self._since, now - DEAD_SECONDS) if alone else math.inf
        return alone

    def seconds(self, now: float) -> float:
        """Return for how long this node has been alone."""
        return max(0.0, now - self._since)


@dataclass(slots=True)
class Contact:
    """The memory of one agent's loop from one round to the next; times are by the monotonic clock."""

    _alone: Alone = field(default_factory=Alone)
    _crashed_since: float = math.inf
    _silent: frozenset[str] = frozenset()
    _served: bool = False
    """Whether any node took writes."""
    _haste_until: float = -math.inf
    _gone_since: dict[str, float] = field(default_factory=dict)
    """Since when a majority has had no sign of life of these nodes."""
    _pool_away_since: float = math.inf
    _of_address: tuple[str, frozenset[str]] | None = None
    """The primary and the holders of the virtual address."""

    def note(
        self, cluster: Cluster, facts: ClusterFacts, me: str, now: float, unheard: Collection[str] = frozenset()
    ) -> None:
        """Note the facts of a round. `unheard`: as in `fencing.missing`."""
        mine = facts.of(me)
        self._note_gone(cluster, facts, now)
        self._hasten_address(cluster, facts, now)
        away = mine.pgpool is None and Service.PGPOOL in cluster.named(me).runs
        self._pool_away_since = min(self._pool_away_since, now) if away else math.inf
        alone = self._alone.note(cluster, facts, me, now, unheard)
        self._crashed_since = min(self._crashed_since, now) if _crashed(mine) else math.inf
        serves = any(member.writable for member in facts.members(cluster))
        fencing_soon = alone and self.alone_seconds(now) < fencing.FENCE_SECONDS
        if mine.silent - self._silent or fencing_soon or (self._served and not serves):
            self._haste_until = now + _HASTE_SECONDS
        self._silent, self._served = mine.silent, serves

    def alone_seconds(self, now: float) -> float:
        """Return for how long this node has been without contact to a majority."""
        return self._alone.seconds(now)

    def _note_gone(self, cluster: Cluster, facts: ClusterFacts, now: float) -> None:
        away = [node.name for node in cluster.nodes if not facts.of(node.name).reachable]
        gone = [name for name in away if silent(cluster, facts, name)]
        self._gone_since = {name: self._gone_since.get(name, now - DEAD_SECONDS) for name in gone}

    def _hasten_address(self, cluster: Cluster, facts: ClusterFacts, now: float) -> None:
        """Decide at short intervals once the primary has changed, so that the virtual address follows it soon."""
        if not cluster.moves_address:
            return
        leads = rightful_primary(cluster, facts)
        found = leads.node if leads is not None else "", frozenset(one.node for one in _holders(facts))
        if self._of_address not in (None, found):
            self._haste_until = now + _HASTE_SECONDS
        self._of_address = found

    def gone(self, now: float) -> frozenset[str]:
        """Return the nodes without a sign of life for so long that they have dropped the virtual address."""
        since = now - virtual_address.GONE_SECONDS
        return frozenset(name for name, at in self._gone_since.items() if at <= since)

    def pool_away(self, now: float) -> bool:
        """Return whether this node's pgpool-II has not answered for longer than a restart takes."""
        return now - self._pool_away_since >= virtual_address.AWAY_SECONDS

    def yields(self, now: float) -> bool:
        """Return whether a standby that can take over comes before a restart of this node's crashed server."""
        return 0.0 <= now - self._crashed_since < _YIELD_SECONDS

    def pause(self, seconds: float) -> float:
        """Return the pause before the next round, which is shorter than `seconds` if a node has just become silent."""
        return min(seconds, _HASTE_PAUSE_SECONDS) if time.monotonic() < self._haste_until else seconds


def _holders(facts: ClusterFacts) -> list[NodeFacts]:
    return [one for one in facts.nodes.values() if one.reachable and one.virtual_ip]


def _crashed(mine: NodeFacts) -> bool:
    return mine.postgresql is Postgresql.DOWN and mine.position is None and not mine.standby_signal
