"""Conclusions from the facts that hold in every mode: the nodes in service, the rightful primary, the latest term."""

from __future__ import annotations

from dataclasses import dataclass

from ..definition.cluster import Cluster, Node
from .actions import Action, AwaitRecovery, Wait
from .facts.facts import BackendState, ClusterFacts, NodeFacts, PgpoolFacts, WatchdogState

Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Options for decisions.

    `automatic_return`: a node whose data has diverged rejoins without an administrator.
    `exhausted`: all tries to rejoin have failed, so that even a copy that one of them has begun is not tried again.
    `patient`: nodes out of sight may still be booting, so pgpool-II does not give them up yet.
    `lately`: nodes that took writes a moment ago. If one is out of sight, its agent may just be restarting.
    `yields`: this node's server has just crashed, so a standby that can take over comes before its restart.
    `alone_seconds`: for how long this node has been without contact to a majority.
    """

    automatic_return: bool = False
    exhausted: bool = False
    patient: bool = False
    lately: frozenset[str] = frozenset()
    yields: bool = False
    alone_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Situation:
    """One node's view: the facts and the conclusions from them."""

    cluster: Cluster
    me: Node
    facts: ClusterFacts
    mine: NodeFacts
    primary: NodeFacts | None
    policy: Policy

    @property
    def name(self) -> str:
        """The name of the node that decides."""
        return self.me.name

    @property
    def others(self) -> tuple[NodeFacts, ...]:
        """The other reachable members."""
        return tuple(other for other in self.facts.members(self.cluster) if other.node != self.name)

    @property
    def majority(self) -> bool:
        """Whether more than half of all nodes answer."""
        return self.facts.majority(self.cluster)

    @property
    def latest(self) -> int:
        """The latest term that any member in sight knows."""
        return latest_term(self.cluster, self.facts)

    @property
    def service(self) -> int:
        """The term of the nodes in service, if every node is a primary."""
        return service_term(self.cluster, self.facts)

    @property
    def confirmed(self) -> bool:
        """Whether a majority confirms the primary: none of the nodes that answer knows a later term than it led in."""
        primary = self.primary
        known = max((one.term for one in self.facts.nodes.values() if one.reachable), default=0)
        return primary is not None and self.majority and primary.led >= known

    @property
    def loss(self) -> int:
        """The latest term in which an administrator accepted the loss of other nodes' commits; 0 if none."""
        return max((one.loss for one in self.facts.nodes.values() if one.reachable), default=0)

    @property
    def source(self) -> NodeFacts | None:
        """The node from which this one would be copied."""
        return self.primary if self.primary is not self.mine else None

    def wait(self, reason: str) -> Actions:
        """Return the action of a node that has to wait for something else."""
        return (Wait(self.name, reason),)

    def await_recovery(self, reason: str) -> Actions:
        """Return the action of a node that waits for an administrator to recover it."""
        return (AwaitRecovery(self.name, reason, self.source is not None),)

    def await_primary(self, reason: str) -> Actions:
        """Return the action of a node that a later primary, which is not in sight, has replaced."""
        return (AwaitRecovery(self.name, reason, source_in_sight=False, returns=self.policy.automatic_return),)


def rightful_primary(cluster: Cluster, facts: ClusterFacts) -> NodeFacts | None:
    """Return the writable member that the others should follow; None if there is none in sight.

    With streaming, that node leads in the latest term that any member knows. If no node in sight does, a node that was
    promoted by hand counts: the only one on the highest timeline, unless a node out of sight may be the primary. If
    every node is a primary, it is the first one in service, from which the others would be copied.
    """
    members = facts.members(cluster)
    latest = latest_term(cluster, facts)
    writable = [member for member in members if member.writable and member.timeline is not None]
    lawful = [member for member in writable if member.led >= latest]
    if not cluster.mode.streams:
        return next(iter(in_service(cluster, facts)), None)
    if lawful:
        return max(lawful, key=rank)
    return None if unseen(cluster, facts) else promoted_by_hand(cluster, facts)


def promoted_by_hand(cluster: Cluster, facts: ClusterFacts) -> NodeFacts | None:
    """Return the writable member that is alone on the highest timeline; None if there is none.

    A node that is still on the timeline on which it led in an earlier term does not count: another node has replaced
    it.
    """
    members, latest = facts.members(cluster), latest_term(cluster, facts)
    writable = (member for member in members if member.writable and member.timeline)
    return next((one for one in writable if _alone_on_top(one, members) and not _was_replaced(one, latest)), None)


def _was_replaced(member: NodeFacts, latest: int) -> bool:
    led_on = {origin.timeline for origin in member.origins if origin.term == member.led}
    return 0 < member.led < latest and member.timeline in led_on


def unseen(cluster: Cluster, facts: ClusterFacts) -> tuple[str, ...]:
    """Return the unreachable database nodes that may still be at work, because they do not count as dead."""
    away = [node.name for node in cluster.databases if not facts.of(node.name).reachable]
    return tuple(name for name in away if not given_up(cluster, facts, name))


def given_up(cluster: Cluster, facts: ClusterFacts, name: str) -> bool:
    """Return whether a node counts as dead: it is silent, or every leading pgpool-II has detached it.

    The latter is evidence only from a watchdog, whose pgpool-IIs check the nodes themselves. In streaming replication,
    only nodes with an older package have one.
    """
    leading = [pool for pool in leading_pgpools(cluster, facts) if pool.watchdog is WatchdogState.LEADER]
    detached = bool(leading) and all(pool.backends.get(name) is BackendState.DOWN for pool in leading)
    return detached or silent(cluster, facts, name)


def silent(cluster: Cluster, facts: ClusterFacts, name: str) -> bool:
    """Return whether more than half of all nodes have no sign of life of a node."""
    return sum(one.reachable and name in one.silent for one in facts.nodes.values()) >= cluster.majority


def in_service(cluster: Cluster, facts: ClusterFacts) -> tuple[NodeFacts, ...]:
    """Return the nodes of native replication that have every write: up, and never detached since they were copied."""
    term = service_term(cluster, facts)
    members = facts.members(cluster)
    return tuple(member for member in members if member.writable and member.led >= term and not member.half_copied)


def latest_term(cluster: Cluster, facts: ClusterFacts) -> int:
    """Return the latest term that any member in sight knows, at least 1."""
    return max((member.term for member in facts.members(cluster)), default=1) or 1


def service_term(cluster: Cluster, facts: ClusterFacts) -> int:
    """Return the term in which a node of native replication must have led to have every write.

    That is the latest term, unless all database nodes are in sight and none has led in it: then it never took effect,
    for example because of a power cut while it was being claimed.
    """
    if any(not facts.of(node.name).reachable for node in cluster.databases):
        return latest_term(cluster, facts)
    return max((member.led for member in facts.members(cluster)), default=1) or 1


def rank(member: NodeFacts) -> tuple[int, int, int]:
    """Return the sort key of a node's claim, greater for a better one: term if it leads, timeline, position."""
    return member.led if member.writable else 0, member.timeline or 0, member.position.bytes if member.position else 0


def _alone_on_top(one: NodeFacts, members: tuple[NodeFacts, ...]) -> bool:
    return all((one.timeline or 0) > (other.timeline or 0) for other in members if other is not one)


def leading_pgpools(cluster: Cluster, facts: ClusterFacts) -> list[PgpoolFacts]:
    """Return the views of leading pgpool-IIs: the watchdog leader with a quorum, or a pgpool-II without a watchdog."""
    return list(_leading(cluster, facts).values())


def leading_node(cluster: Cluster, facts: ClusterFacts) -> str:
    """Return the node of the leading pgpool-II; "" if there is none in sight.

    Without a watchdog, it is the one on the primary's node, or else the first one in sight.
    """
    found = _leading(cluster, facts)
    primary = None if cluster.uses_watchdog else rightful_primary(cluster, facts)
    return primary.node if primary is not None and primary.node in found else next(iter(found), "")


def _leading(cluster: Cluster, facts: ClusterFacts) -> dict[str, PgpoolFacts]:
    nodes = [facts.of(node.name) for node in cluster.pgpools]
    return {node.node: node.pgpool for node in nodes if node.reachable and node.pgpool and leads(node.pgpool)}


def leads(pgpool: PgpoolFacts) -> bool:
    """Return whether this pgpool-II leads with a quorum, or is the only one."""
    return pgpool.watchdog is WatchdogState.ALONE or (pgpool.watchdog is WatchdogState.LEADER and pgpool.quorum)
