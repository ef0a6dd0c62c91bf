"""Facts of nodes for tests of decisions: a primary, a standby, and states that they may be in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pgpool_cluster.decision.actions import (
    Action,
)
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.facts import (
    BackendState,
    ClusterFacts,
    Lsn,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    Switch,
    WatchdogState,
)
from pgpool_cluster.decision.situation import Policy
from pgpool_cluster.definition.cluster import Cluster, Mode, Node, Service

NAMES = ("pg1", "pg2", "pg3")
SYSTEM = 7000
OTHER_SYSTEM = 8000
FORK = (Switch(1, Lsn(1000)),)


def make_cluster(mode: Mode = Mode.STREAMING_REPLICATION, count: int = 3, synchronous: int = 1) -> Cluster:
    nodes = tuple(Node(i, NAMES[i], f"10.0.0.{i + 1}", 5432, 1.0, frozenset(Service)) for i in range(count))
    return Cluster("main", mode, None, nodes, (), None, None, synchronous, (), ())


CLUSTER = make_cluster()
NATIVE = make_cluster(Mode.NATIVE_REPLICATION, synchronous=0)
ALL_UP = dict.fromkeys(NAMES, BackendState.UP)


def pgpool(*down: str, quorum: bool = True, leader: bool = True, primary: str | None = None) -> PgpoolFacts:
    backends = {name: BackendState.DOWN if name in down else BackendState.UP for name in NAMES}
    return PgpoolFacts(WatchdogState.LEADER if leader else WatchdogState.STANDBY, quorum, backends, primary)


def unwatched(*down: str, primary: str | None = "pg1") -> PgpoolFacts:
    """A pgpool-II without a watchdog, as each one in streaming replication. `primary`: where it sends writes."""
    return replace(pgpool(*down, primary=primary), watchdog=WatchdogState.ALONE)


def primary(name: str, *, term: int = 1, led: int | None = None, timeline: int = 1, at: int = 1000) -> NodeFacts:
    return NodeFacts(
        name, True, Postgresql.UP, member=True, term=term, led=term if led is None else led, system=SYSTEM,
        databases=("app",), timeline=timeline, position=Lsn(at), history=FORK if timeline == 2 else (),
        slots=frozenset(NAMES) - {name}, pgpool=pgpool(leader=False),
    )  # fmt: skip


def standby(name: str, follows: str, *, term: int = 1, timeline: int = 1, at: int = 1000) -> NodeFacts:
    return replace(
        primary(name, term=term, led=0, timeline=timeline, at=at),
        in_recovery=True, standby_signal=True, follows=follows, streaming=True, slots=frozenset(),
    )  # fmt: skip


def down(facts: NodeFacts) -> NodeFacts:
    return replace(facts, postgresql=Postgresql.DOWN, in_recovery=False, streaming=False, databases=None, pgpool=None)


def crashed(facts: NodeFacts) -> NodeFacts:
    return replace(down(facts), position=None)


def orphaned(facts: NodeFacts) -> NodeFacts:
    """A standby whose primary does not answer."""
    return replace(facts, streaming=False)


def away(name: str) -> NodeFacts:
    return NodeFacts(name, reachable=False)


def fresh(name: str, *databases: str) -> NodeFacts:
    """A PostgreSQL as its package creates it, with its own system identifier."""
    return NodeFacts(name, True, Postgresql.UP, system=OTHER_SYSTEM + int(name[-1]), databases=databases, timeline=1)


def absent(name: str) -> NodeFacts:
    return NodeFacts(name, True, Postgresql.ABSENT)


def seen(*nodes: NodeFacts) -> ClusterFacts:
    return ClusterFacts({facts.node: facts for facts in nodes})


def healthy() -> tuple[NodeFacts, NodeFacts, NodeFacts]:
    nodes = (primary("pg1"), standby("pg2", "pg1"), standby("pg3", "pg1"))
    first, second, third = (replace(node, pgpool=unwatched()) for node in nodes)
    return first, second, third


def kinds(actions: Iterable[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


@dataclass(frozen=True)
class Situation:
    """The facts, and the kinds of actions expected of each named node."""

    story: str
    nodes: tuple[NodeFacts, ...]
    wanted: dict[str, list[str]]
    cluster: Cluster = CLUSTER
    policy: Policy | None = None

    @property
    def done(self) -> dict[str, list[str]]:
        """The kinds of actions that the nodes decide."""
        facts = seen(*self.nodes)
        nodes = {name: self.cluster.named(name) for name in self.wanted}
        return {name: kinds(decide(self.cluster, node, facts, self.policy)) for name, node in nodes.items()}
