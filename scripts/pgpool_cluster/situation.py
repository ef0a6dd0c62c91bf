"""What a node sees, and what follows from it whatever the mode: who is in service, who is the rightful primary."""

from __future__ import annotations

from dataclasses import dataclass

from .actions import Action, AwaitRecovery, Wait
from .cluster import Cluster, Node
from .facts import BackendState, ClusterFacts, NodeFacts, PgpoolFacts, WatchdogState

Actions = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be done without being asked. `automatic_return`: a former primary rejoins by itself.

    `patient`: nodes that are out of sight may just be booting, so pgpool-II does not give them up yet.
    `lately`: nodes that took writes a moment ago. Where one is out of sight, its agent may just be restarting.
    """

    automatic_return: bool = False
    patient: bool = False
    lately: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Situation:
    """One node's view: the facts, with what follows from them."""

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
        """The term that nodes in service are in, where every node is a primary."""
        return service_term(self.cluster, self.facts)

    @property
    def source(self) -> NodeFacts | None:
        """The node that a new one is copied from."""
        return self.primary if self.primary is not self.mine else None

    def wait(self, reason: str) -> Actions:
        """Return the action of a node that something else has to happen for first."""
        return (Wait(self.name, reason),)

    def await_recovery(self, reason: str) -> Actions:
        """Return the action of a node that an administrator has to recover."""
        return (AwaitRecovery(self.name, reason, self.source is not None),)


def rightful_primary(cluster: Cluster, facts: ClusterFacts) -> NodeFacts | None:
    """Return the writable member that the others follow; None if there is none in sight.

    Where all are primaries, it is the one that the others would be copied from: the first in service.
    It leads in the latest term that any member knows. Where nobody in sight does, a node that was promoted by hand
    counts: the only one on the highest timeline, unless one out of sight may be the primary.
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
    """Return the writable member that is the only one on the highest timeline; None if there is none."""
    members = facts.members(cluster)
    return next((one for one in members if one.writable and one.timeline and _alone_on_top(one, members)), None)


def unseen(cluster: Cluster, facts: ClusterFacts) -> tuple[str, ...]:
    """Return the database nodes that are out of sight, but that no pgpool-II whose word counts has given up.

    Where no such pgpool-II is in sight, these are all that are out of sight.
    """
    away = [node.name for node in cluster.databases if not facts.of(node.name).reachable]
    leading = leading_pgpools(cluster, facts)
    if not leading:
        return tuple(away)
    return tuple(name for name in away if any(one.backends.get(name) is not BackendState.DOWN for one in leading))


def in_service(cluster: Cluster, facts: ClusterFacts) -> tuple[NodeFacts, ...]:
    """Return the nodes of native replication that have every write: up, and never given up since they were copied."""
    term = service_term(cluster, facts)
    members = facts.members(cluster)
    return tuple(member for member in members if member.writable and member.led >= term and not member.half_copied)


def latest_term(cluster: Cluster, facts: ClusterFacts) -> int:
    """Return the latest term that any member in sight knows; there is none before 1."""
    return max((member.term for member in facts.members(cluster)), default=1) or 1


def service_term(cluster: Cluster, facts: ClusterFacts) -> int:
    """Return the term that a node of native replication must have led in to have every write.

    That is the latest term, unless all database nodes are in sight and none has led in it: then it came to nothing, as
    where the power was cut while it was claimed.
    """
    if any(not facts.of(node.name).reachable for node in cluster.databases):
        return latest_term(cluster, facts)
    return max((member.led for member in facts.members(cluster)), default=1) or 1


def rank(member: NodeFacts) -> tuple[int, int, int]:
    """Return what is greater for the better claim: the term where it leads, the timeline, the position."""
    return member.led if member.writable else 0, member.timeline or 0, member.position.bytes if member.position else 0


def _alone_on_top(one: NodeFacts, members: tuple[NodeFacts, ...]) -> bool:
    return all((one.timeline or 0) > (other.timeline or 0) for other in members if other is not one)


def leading_pgpools(cluster: Cluster, facts: ClusterFacts) -> list[PgpoolFacts]:
    """Return the running pgpool-IIs whose word counts: the leader with its quorum, or one without a watchdog."""
    return list(_leading(cluster, facts).values())


def leading_node(cluster: Cluster, facts: ClusterFacts) -> str:
    """Return the node of the first of them; "" if there is none in sight."""
    return next(iter(_leading(cluster, facts)), "")


def _leading(cluster: Cluster, facts: ClusterFacts) -> dict[str, PgpoolFacts]:
    found = [facts.of(node.name) for node in cluster.pgpools]
    return {one.node: one.pgpool for one in found if one.reachable and one.pgpool is not None and leads(one.pgpool)}


def leads(pgpool: PgpoolFacts) -> bool:
    """Tell whether this pgpool-II's word counts: it leads with a quorum, or is alone."""
    return pgpool.watchdog is WatchdogState.ALONE or (pgpool.watchdog is WatchdogState.LEADER and pgpool.quorum)
