"""Decide when a node without contact to a majority must serve no clients any more. Pure.

The other nodes may promote one of theirs, and cannot tell this node. So its primary takes no more writes, and its
pgpool-II answers no more reads, which would be stale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..definition.cluster import Cluster
from .facts.facts import ClusterFacts, NodeFacts

FENCE_SECONDS = 2.0
"""Seconds without contact to a majority after which a node is fenced."""
ANSWER_SECONDS = 8.0
"""Seconds for which an answer of a silent node counts. Longer than the agent's loop takes to ask it again."""
REASON = "it has no contact to more than half of the nodes, which may have promoted another one"


def can_be_replaced(cluster: Cluster) -> bool:
    """Return whether the other nodes have a majority without this one. With two nodes, neither replaces the other."""
    return len(cluster.nodes) - 1 >= cluster.majority


def at_present(
    facts: ClusterFacts, me: str, silent: Mapping[str, float], asked: Mapping[str, float], now: float
) -> ClusterFacts:
    """Return facts that may be minutes old, with the signs of life that this node has of the others at present.

    `silent`: since when each silent node has been silent. `asked`: when the last answer of each node was requested. A
    silent node counts as unreachable unless it has answered since then, in the last ANSWER_SECONDS.
    """
    deaf = [name for name, since in silent.items() if asked.get(name, float("-inf")) < max(since, now - ANSWER_SECONDS)]
    mine = replace(facts.of(me), silent=frozenset(silent))
    return ClusterFacts({**facts.nodes, **{name: NodeFacts(name, reachable=False) for name in deaf}, me: mine})


def missing(cluster: Cluster, facts: ClusterFacts, me: str, unheard: Collection[str] = frozenset()) -> tuple[str, ...]:
    """Return the nodes with which this one has no contact. A node that answers a request is in contact.

    `unheard`: nodes of which nothing has arrived since the agent started. Such a node may not be installed yet, so it
    stops no primary that was alone in the cluster before.

    A primary whose witness knows of a later term counts neither that witness nor any node that does not answer: they
    may have replaced it. Database nodes that answer prove the opposite, so a witness alone stops no primary.
    """
    mine = facts.of(me)
    away = tuple(node.name for node in cluster.nodes if not facts.of(node.name).reachable)
    later = _later_witnesses(cluster, facts, mine.led) if cluster.mode.streams and mine.writable else ()
    return (*away, *later) if later else tuple(name for name in away if name in mine.silent and name not in unheard)


def _later_witnesses(cluster: Cluster, facts: ClusterFacts, led: int) -> tuple[str, ...]:
    witnesses = [node.name for node in cluster.nodes if node not in cluster.databases]
    return tuple(name for name in witnesses if facts.of(name).reachable and facts.of(name).term > led)


def is_alone(cluster: Cluster, missing: Collection[str]) -> bool:
    """Return whether this node has no contact to a majority. `missing`: the nodes that show no sign of life."""
    return len(cluster.nodes) - len(missing) < cluster.majority


def is_due(cluster: Cluster, alone_seconds: float) -> bool:
    """Return whether a node that has been alone for so long must be fenced, which only streaming replication needs."""
    return cluster.mode.streams and can_be_replaced(cluster) and alone_seconds >= FENCE_SECONDS
