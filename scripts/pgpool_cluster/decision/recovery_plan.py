"""Decide whether a node needs a recovery, from which node, and the least that suffices. Pure functions of facts."""

from __future__ import annotations

from enum import Enum, auto

from ..definition.cluster import Cluster
from ..ground.errors import OperationError
from .facts import replay
from .facts.facts import BackendState, ClusterFacts, NodeFacts, Postgresql, contains
from .situation import in_service, leading_pgpools


class Remedy(Enum):
    """The ways to make a node a standby of the primary, from the least to the most work."""

    NOTHING = auto()
    START = auto()
    REJOIN = auto()
    COPY = auto()


def source(primary: NodeFacts | None, name: str) -> NodeFacts:
    """Return the rightful primary, which node `name` is recovered from; raises OperationError if that is impossible."""
    if primary is None:
        hint = "pgpoolctl status shows every node; bring the last primary back first"
        raise OperationError("no primary to copy from is reachable", hint=hint)
    if primary.node == name:
        hint = "recover the other nodes; pgpoolctl status shows which need it"
        raise OperationError(f"{name} is the primary, the source of all copies", hint=hint)
    return primary


def refuse_needless(cluster: Cluster, facts: ClusterFacts, primary: NodeFacts, name: str) -> None:
    """Raise OperationError if a standby is healthy and every leading pgpool-II sends clients to it."""
    mine = facts.of(name)
    if mine.standby and mine.streaming and mine.stalled and not mine.half_copied:
        raise OperationError(f"{name} has its data, but does not replay: {mine.stalled}", hint=replay.hint(mine))
    if mine.standby and mine.streaming and mine.follows == primary.node:
        _refuse_if_used(cluster, facts, mine, f"it receives from {mine.follows}")


def refuse_in_service(cluster: Cluster, facts: ClusterFacts, name: str) -> None:
    """Raise OperationError if a node of native replication has every write, and pgpool-II sends clients to it."""
    mine = facts.of(name)
    if mine in in_service(cluster, facts):
        _refuse_if_used(cluster, facts, mine, "it has every write")


def _refuse_if_used(cluster: Cluster, facts: ClusterFacts, mine: NodeFacts, why: str) -> None:
    views = leading_pgpools(cluster, facts)
    if not views or mine.held or mine.half_copied:
        return
    if all(view.backends.get(mine.node) is BackendState.UP for view in views):
        hint = f"pgpoolctl recover --force {mine.node} rebuilds it anyway"
        reason = f"{mine.node} needs no recovery: {why}, and pgpool-II sends clients there"
        raise OperationError(reason, hint=hint)


def refuse_to_lose(mine: NodeFacts) -> None:
    """Raise OperationError if the node is not a member and has databases that a copy would replace."""
    if not mine.member and not mine.half_copied and mine.databases:
        names = ", ".join(mine.databases)
        hint = "pg_dump them and drop them first"
        raise OperationError(f"{mine.node} holds databases that no other node has: {names}", hint=hint)


def detacher(cluster: Cluster, facts: ClusterFacts, name: str, *, force: bool) -> str:
    """Return the node whose pgpool-II must detach node `name` for its recovery; "" if that is not necessary."""
    mine = facts.of(name)
    for node in cluster.pgpools:
        view = facts.of(node.name).pgpool
        if view is not None and view.backends.get(name) is BackendState.UP and (force or not mine.streaming):
            return node.name
    return ""


def remedy(primary: NodeFacts, mine: NodeFacts) -> Remedy:
    """Return the least that may suffice; raises OperationError if a copy would replace databases of a new node.

    If START is not enough, REJOIN is next.
    """
    if mine.standby and mine.streaming and mine.follows == primary.node and not mine.half_copied:
        return Remedy.NOTHING
    if mine.half_copied or mine.postgresql is Postgresql.ABSENT or not mine.member:
        refuse_to_lose(mine)
        return Remedy.COPY
    if mine.standby_signal and contains(primary, mine) is not False:
        return Remedy.START
    return Remedy.REJOIN
