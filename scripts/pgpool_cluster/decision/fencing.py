"""Decide when a node without contact to a majority must serve no clients any more. Pure.

The other nodes may promote one of theirs, and cannot tell this node. So its primary takes no more writes, and its
pgpool-II answers no more reads, which would be stale.
"""

from __future__ import annotations

from collections.abc import Collection

from ..definition.cluster import Cluster

FENCE_SECONDS = 2.0
"""Seconds without contact to a majority after which a node is fenced."""
REASON = "it has no contact to more than half of the nodes, which may have promoted another one"


def can_be_replaced(cluster: Cluster) -> bool:
    """Return whether the other nodes have a majority without this one. With two nodes, neither replaces the other."""
    return len(cluster.nodes) - 1 >= cluster.majority


def is_alone(cluster: Cluster, missing: Collection[str]) -> bool:
    """Return whether this node has no contact to a majority. `missing`: the nodes that show no sign of life."""
    return len(cluster.nodes) - len(missing) < cluster.majority


def is_due(cluster: Cluster, alone_seconds: float) -> bool:
    """Return whether a node that has been alone for so long must be fenced."""
    return can_be_replaced(cluster) and alone_seconds >= FENCE_SECONDS
