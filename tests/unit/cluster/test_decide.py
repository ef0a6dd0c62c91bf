"""Situations of a cluster, and what each node is to do about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgpool_cluster.actions import (
    Action,
    Attach,
    AwaitRecovery,
    Clone,
    CreateSlots,
    Detach,
    Dismiss,
    Follow,
    Found,
    Lead,
    Promote,
    Refuse,
    Rejoin,
    Resume,
    Start,
    StartPgpool,
    Stop,
    Wait,
)
from pgpool_cluster.cluster import Cluster, Mode, Node, Service
from pgpool_cluster.decide import choose_new_primary, confirmed, decide, failover
from pgpool_cluster.facts import (
    BackendState,
    ClusterFacts,
    Lsn,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    Switch,
    WatchdogState,
    contains,
)
from pgpool_cluster.situation import Actions, Policy, rightful_primary

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
    """A PostgreSQL as its package makes it, with a system identifier of its own."""
    return NodeFacts(name, True, Postgresql.UP, system=OTHER_SYSTEM + int(name[-1]), databases=databases, timeline=1)


def absent(name: str) -> NodeFacts:
    return NodeFacts(name, True, Postgresql.ABSENT)


def seen(*nodes: NodeFacts) -> ClusterFacts:
    return ClusterFacts({facts.node: facts for facts in nodes})


def healthy(leader: str = "pg1") -> tuple[NodeFacts, NodeFacts, NodeFacts]:
    nodes = (primary("pg1"), standby("pg2", "pg1"), standby("pg3", "pg1"))
    first, second, third = (replace(node, pgpool=pgpool(leader=node.node == leader)) for node in nodes)
    return first, second, third


def kinds(actions: Iterable[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


@dataclass(frozen=True)
class Situation:
    """What is there, and the actions that each named node is to take, by their kinds."""

    story: str
    nodes: tuple[NodeFacts, ...]
    wanted: dict[str, list[str]]
    cluster: Cluster = CLUSTER


FAILED_OVER = (
    replace(primary("pg2", term=2, timeline=2, at=1500), pgpool=pgpool("pg1", primary="pg2")),
    standby("pg3", "pg2", term=2, timeline=2, at=1500),
)

SITUATIONS = [
    Situation("a healthy cluster needs nothing", healthy(), {"pg1": [], "pg2": [], "pg3": []}),
    # First install
    Situation(
        "three new servers: the first keeps what it has, the others wait for it",
        (fresh("pg1"), fresh("pg2"), fresh("pg3")),
        {"pg1": ["Found"], "pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "the first server founds the cluster with its databases",
        (fresh("pg1", "app"), fresh("pg2"), away("pg3")),
        {"pg1": ["Found"]},
    ),
    Situation("a first server that sees nobody else waits", (fresh("pg1"),), {"pg1": ["Wait"]}),
    Situation(
        "empty servers are cloned once there is a primary",
        (primary("pg1"), fresh("pg2"), absent("pg3")),
        {"pg2": ["Clone", "StartPgpool"], "pg3": ["Clone", "StartPgpool"]},
    ),
    Situation(
        "a server with databases of its own is not wiped",
        (primary("pg1"), fresh("pg2", "precious"), away("pg3")),
        {"pg2": ["Refuse", "StartPgpool"]},
    ),
    Situation(
        "a database of the same name elsewhere does not make it the same",
        (primary("pg1"), fresh("pg2", "app"), away("pg3")),
        {"pg2": ["Refuse", "StartPgpool"]},
    ),
    Situation(
        "it refuses before there is a cluster, too",
        (fresh("pg1"), fresh("pg2", "precious"), away("pg3")),
        {"pg2": ["Refuse"]},
    ),
    Situation(
        "a server whose contents nobody could see is started, not cloned",
        (primary("pg1"), replace(fresh("pg2"), databases=None, postgresql=Postgresql.DOWN)),
        {"pg2": ["Start", "StartPgpool"]},
    ),
    Situation(
        "a first server that was installed anew joins the cluster that is there",
        (fresh("pg1"), primary("pg2", term=2, timeline=2), standby("pg3", "pg2", term=2, timeline=2)),
        {"pg1": ["Clone", "StartPgpool"]},
    ),
    Situation(
        "half a copy is finished",
        (primary("pg1"), NodeFacts("pg2", half_copied=True)),
        {"pg2": ["Clone", "StartPgpool"]},
    ),
    # Boot
    Situation(
        "after a power loss the primary starts again once a majority is there",
        (down(primary("pg1")), down(standby("pg2", "pg1")), away("pg3")),
        {"pg1": ["Resume"], "pg2": ["Start"]},
    ),
    Situation(
        "a term that was claimed in vain, seen by all, keeps nobody out",
        (down(primary("pg1", term=2, led=1)), down(standby("pg2", "pg1", term=2)), down(standby("pg3", "pg1"))),
        {"pg1": ["Resume"]},
    ),
    Situation(
        "a later term that somebody out of sight may lead keeps the former primary out",
        (down(primary("pg1", term=2, led=1)), down(standby("pg2", "pg1", term=2)), away("pg3")),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "a former primary that boots while a standby takes its place waits for that",
        (down(primary("pg1")), replace(orphaned(standby("pg2", "pg1")), promoting=True), standby("pg3", "pg1")),
        {"pg1": ["Wait"]},
    ),
    Situation("a primary that sees nobody waits", (down(primary("pg1")),), {"pg1": ["Wait"]}),
    Situation(
        "standbys wait while the primary's host is still booting",
        (away("pg1"), orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1"))),
        {"pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "all nodes down in pgpool-II after a restart: healthy ones are attached",
        tuple(replace(node, pgpool=pgpool(*NAMES, leader=node.node == "pg1")) for node in healthy()),
        {"pg1": ["Attach", "Attach", "Attach"], "pg2": []},
    ),
    Situation(
        "pgpool-II is started once there is something to serve",
        (replace(primary("pg1"), pgpool=None), down(standby("pg2", "pg1"))),
        {"pg1": ["StartPgpool"], "pg2": ["Start", "StartPgpool"]},
    ),
    Situation(
        "an administrator's stop is respected",
        (replace(primary("pg1"), postgresql=Postgresql.STOPPED), *healthy()[1:]),
        {"pg1": ["Wait"]},
    ),
    # Trap 2: Debian starts PostgreSQL at boot, the old primary would be writable again
    Situation(
        "trap 2: a former primary stays down while its successor serves",
        (down(primary("pg1", at=1400)), *FAILED_OVER),
        {"pg1": ["AwaitRecovery", "StartPgpool"], "pg2": [], "pg3": []},
    ),
    Situation(
        "trap 2: it stops if it was started all the same, and pgpool-II is told if it took it for up",
        (
            primary("pg1", at=1400),
            replace(FAILED_OVER[0], pgpool=pgpool(primary="pg2")),
            FAILED_OVER[1],
        ),
        {"pg1": ["Stop"], "pg2": ["Detach"], "pg3": []},
    ),
    Situation(
        "trap 2: it stays down even if its successor is out of sight",
        (down(primary("pg1", term=1, at=1400)), away("pg2"), orphaned(FAILED_OVER[1])),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "trap 2: it stops even if only a sibling knows of the promotion",
        (primary("pg1"), away("pg2"), orphaned(standby("pg3", "pg1", term=2))),
        {"pg1": ["Stop"]},
    ),
    Situation(
        "trap 2: it stays down if a sibling was told of the promotion and has seen nothing of it",
        (down(primary("pg1")), away("pg2"), orphaned(standby("pg3", "pg1", term=2))),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "a primary whose disk was set back does not overrule a standby that has more",
        (down(primary("pg1", at=900)), orphaned(standby("pg2", "pg1", at=1000)), away("pg3")),
        {"pg1": ["AwaitRecovery"]},
    ),
    Situation(
        "a primary that comes back in the middle of a failover waits for its end",
        (down(primary("pg1")), replace(orphaned(standby("pg2", "pg1")), promoting=True), away("pg3")),
        {"pg1": ["Wait"]},
    ),
    # Trap 3: a planned restart
    Situation(
        "trap 3: while the primary restarts, standbys keep still although pgpool-II gave it up",
        (
            replace(down(primary("pg1")), postgresql=Postgresql.STARTING),
            replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1")),
        ),
        {"pg1": ["Wait"], "pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "trap 3: a primary that pgpool-II gave up during its restart is attached again",
        (primary("pg1"), replace(standby("pg2", "pg1"), pgpool=pgpool("pg1")), standby("pg3", "pg1")),
        {"pg1": [], "pg2": ["Attach"], "pg3": []},
    ),
    # Trap 4: pgpool_status lost while two primaries are writable
    Situation(
        "trap 4: with pgpool_status lost, the stale node is detached although its id is lower and pgpool-II chose it",
        (
            replace(primary("pg1", at=9000), pgpool=pgpool(primary="pg1")),
            replace(FAILED_OVER[0], pgpool=pgpool(leader=False)),
            FAILED_OVER[1],
        ),
        {"pg1": ["Stop", "Detach"], "pg2": [], "pg3": []},
    ),
    # After a failover
    Situation(
        "siblings that still ask the dead primary follow the new one",
        (away("pg1"), FAILED_OVER[0], orphaned(standby("pg3", "pg1", at=900))),
        {"pg3": ["Follow"]},
    ),
    Situation(
        "a sibling that is ahead of the new primary has diverged",
        (
            away("pg1"),
            replace(FAILED_OVER[0], pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1", at=1200)),
        ),
        {"pg2": ["Detach"], "pg3": ["AwaitRecovery"]},
    ),
    Situation(
        "a failover that came to nothing is made up for by the most advanced standby",
        (
            away("pg1"),
            replace(orphaned(standby("pg2", "pg1", at=900)), pgpool=pgpool("pg1")),
            orphaned(standby("pg3", "pg1", at=1000)),
        ),
        {"pg2": ["Wait"], "pg3": ["Promote"]},
    ),
    Situation(
        "without a quorum of pgpool-IIs nobody is promoted",
        (
            away("pg1"),
            replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1", quorum=False)),
            orphaned(standby("pg3", "pg1")),
        ),
        {"pg2": ["Wait"], "pg3": ["Wait"]},
    ),
    Situation(
        "a new primary gets the slots that its standbys need",
        (away("pg1"), replace(FAILED_OVER[0], slots=frozenset({"pg3"})), FAILED_OVER[1]),
        {"pg2": ["CreateSlots"]},
    ),
    Situation(
        "a promotion by hand is recognised",
        (away("pg1"), primary("pg2", term=1, led=0, timeline=2), standby("pg3", "pg2", timeline=1)),
        {"pg2": ["Lead"]},
    ),
    # Native replication
    Situation(
        "native replication: the first founds it and pgpool-II starts, so that it can rebuild the others",
        (replace(primary("pg1"), pgpool=None), fresh("pg2"), absent("pg3")),
        {"pg1": ["StartPgpool"], "pg2": ["Wait", "StartPgpool"], "pg3": ["Wait", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "native replication: new nodes are rebuilt by the pgpool-II that leads",
        (replace(primary("pg1"), pgpool=pgpool("pg2", "pg3")), fresh("pg2"), absent("pg3")),
        {"pg1": [], "pg2": ["Rebuild", "StartPgpool"], "pg3": ["Rebuild", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "native replication: a new node that pgpool-II takes for a member is detached, and keeps what it holds",
        (replace(primary("pg1"), pgpool=pgpool("pg3")), fresh("pg2", "precious"), absent("pg3")),
        {"pg1": ["Detach"], "pg2": ["Refuse", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "native replication: a node that missed writes waits for its recovery",
        (primary("pg1", term=2), primary("pg2", term=2), down(primary("pg3"))),
        {"pg3": ["AwaitRecovery", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "native replication: so does one that runs",
        (
            replace(primary("pg1", term=2), pgpool=pgpool("pg3")),
            primary("pg2", term=2),
            primary("pg3", term=2, led=1),
        ),
        {"pg1": [], "pg2": [], "pg3": ["AwaitRecovery"]},
        NATIVE,
    ),
    Situation(
        "native replication: a node is out of service once pgpool-II goes on without it",
        (replace(primary("pg1"), pgpool=pgpool("pg3")), primary("pg2"), primary("pg3")),
        {"pg1": ["Dismiss"], "pg2": [], "pg3": []},
        NATIVE,
    ),
    Situation(
        "native replication: the last node in service stays, whatever pgpool-II believes",
        (replace(primary("pg1", term=2), pgpool=pgpool("pg1")), away("pg2"), away("pg3")),
        {"pg1": ["Attach"]},
        NATIVE,
    ),
    Situation(
        "native replication: a pgpool-II that was cut off from all wrote nothing, so it dismisses nobody",
        (primary("pg1", term=2), primary("pg2", term=2), replace(absent("pg3"), pgpool=pgpool("pg1", "pg2", "pg3"))),
        {"pg3": ["Wait", "Attach", "Attach"]},
        NATIVE,
    ),
    Situation(
        "native replication: one that was cut off and wrote to its own node alone loses that, not what the others have",
        (
            primary("pg1", term=2),
            primary("pg2", term=2),
            replace(primary("pg3", term=2, led=1), pgpool=pgpool("pg1", "pg2")),
        ),
        {"pg3": ["AwaitRecovery", "Detach", "Attach", "Attach"]},
        NATIVE,
    ),
    Situation(
        "native replication: a minority dismisses nobody, as the others may just have dismissed it",
        (replace(primary("pg1", term=2), pgpool=pgpool("pg2", "pg3")), away("pg2"), away("pg3")),
        {"pg1": []},
        NATIVE,
    ),
    Situation(
        "native replication: two that missed writes at once are dismissed, the one that has them stays",
        (replace(primary("pg1"), pgpool=pgpool("pg2", "pg3")), primary("pg2"), primary("pg3")),
        {"pg1": ["Dismiss", "Dismiss"]},
        NATIVE,
    ),
    Situation(
        "native replication: the last stage of a recovery is not disturbed",
        (
            replace(primary("pg1", term=2), pgpool=pgpool("pg3")),
            primary("pg2", term=2),
            replace(primary("pg3", term=2, led=0), promoting=True),
        ),
        {"pg1": [], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "native replication: nobody missed a write while all were down in order, and pgpool-II waits for all",
        (primary("pg1"), down(primary("pg2")), down(primary("pg3"))),
        {"pg2": ["Start", "Wait"], "pg3": ["Start", "Wait"]},
        NATIVE,
    ),
    Situation(
        "native replication: after a power cut the first node is the measure",
        (crashed(primary("pg1")), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg1": ["Start"], "pg2": ["Wait"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "native replication: the others are rebuilt from it",
        (replace(primary("pg1"), pgpool=pgpool("pg2", "pg3")), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg2": ["Rebuild", "Wait"], "pg3": ["Rebuild", "Wait"]},
        NATIVE,
    ),
    Situation(
        "native replication: where only some crashed, the first begins a term of its own",
        (crashed(primary("pg1")), down(primary("pg2")), down(primary("pg3"))),
        {"pg1": ["Serve"], "pg2": ["Wait"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "native replication: a minority starts nothing",
        (down(primary("pg1")), away("pg2"), away("pg3")),
        {"pg1": ["Wait"]},
        NATIVE,
    ),
    # One node
    Situation(
        "a cluster of one founds and starts itself",
        (fresh("pg1"),),
        {"pg1": ["Found"]},
        make_cluster(count=1, synchronous=0),
    ),
    Situation(
        "a cluster of one boots", (down(primary("pg1")),), {"pg1": ["Resume"]}, make_cluster(count=1, synchronous=0)
    ),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.story)
def test_each_node_does_what_its_situation_asks_for(situation: Situation) -> None:
    facts = seen(*situation.nodes)
    done = {name: kinds(decide(situation.cluster, situation.cluster.named(name), facts)) for name in situation.wanted}
    assert done == situation.wanted


def test_a_refusal_names_the_databases_and_a_way_out() -> None:
    [refusal, *_] = decide(CLUSTER, CLUSTER.named("pg2"), seen(primary("pg1"), fresh("pg2", "crm", "wiki")))
    assert isinstance(refusal, Refuse)
    assert "crm, wiki" in refusal.reason
    assert "pg_dump" in refusal.hint


def test_a_former_primary_that_was_stopped_in_order_comes_back_as_a_standby() -> None:
    [back, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(down(primary("pg1")), *FAILED_OVER))
    assert back == Rejoin("pg1", "pg2")


def test_waiting_for_recovery_names_the_command() -> None:
    crashed = replace(down(primary("pg1")), position=None)
    [waiting, *_] = decide(CLUSTER, CLUSTER.named("pg1"), seen(crashed, *FAILED_OVER))
    assert isinstance(waiting, AwaitRecovery)
    assert waiting.hint == "pgpoolctl recover pg1"


def test_a_former_primary_returns_by_itself_where_the_policy_allows_it() -> None:
    facts = seen(down(primary("pg1")), *FAILED_OVER)
    actions = decide(CLUSTER, CLUSTER.named("pg1"), facts, Policy(automatic_return=True))
    assert actions[0] == Rejoin("pg1", "pg2")


def test_the_stale_node_is_detached_and_not_the_right_one() -> None:
    """Trap 4: pgpool-II believes in node 0, which is writable, has more WAL and is stale."""
    nodes = (replace(primary("pg1", at=9000), pgpool=pgpool(primary="pg1")), *FAILED_OVER)
    detached = [action for action in decide(CLUSTER, CLUSTER.named("pg1"), seen(*nodes)) if isinstance(action, Detach)]
    assert [action.node for action in detached] == ["pg1"]


# The failover program


def dead_primary(*others: NodeFacts, view: PgpoolFacts | None = None) -> ClusterFacts:
    first, *rest = others
    return seen(away("pg1"), replace(first, pgpool=view or pgpool("pg1")), *rest)


def test_the_most_advanced_standby_is_promoted_and_the_others_follow_it() -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1", at=900)), orphaned(standby("pg3", "pg1", at=1000)))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts) == (Promote("pg3", 2), Follow("pg2", "pg3"))


def test_of_equal_standbys_the_first_one_is_promoted() -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1")))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts)[0] == Promote("pg2", 2)


def test_a_later_timeline_counts_more_than_a_longer_log() -> None:
    facts = seen(standby("pg2", "pg1", timeline=1, at=9000), standby("pg3", "pg1", timeline=2, at=1500))
    best = choose_new_primary(CLUSTER, facts)
    assert best is not None
    assert best.node == "pg3"


def test_a_dead_standby_leads_to_nothing() -> None:
    assert failover(CLUSTER, CLUSTER.named("pg3"), seen(*healthy()[:2])) == ()


def test_a_false_alarm_attaches_the_primary_again() -> None:
    assert failover(CLUSTER, CLUSTER.named("pg1"), seen(*healthy())) == (Attach("pg1"),)


def test_trap_3_a_planned_restart_promotes_nobody() -> None:
    restarting = replace(down(primary("pg1")), postgresql=Postgresql.STARTING)
    facts = seen(restarting, orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1")))
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), facts)) == ["Wait"]


def test_trap_8_nobody_is_promoted_while_an_acknowledged_commit_may_be_elsewhere() -> None:
    """With synchronous: 1, pg3 may alone have the last commits; pgpool-II still thought it up."""
    facts = seen(
        replace(down(primary("pg1")), postgresql=Postgresql.STOPPED),
        replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1")),
    )
    [refusal] = failover(CLUSTER, CLUSTER.named("pg1"), facts)
    assert isinstance(refusal, Refuse)
    assert "pg3" in refusal.reason


def test_two_nodes_are_not_promoted_at_once() -> None:
    facts = dead_primary(
        orphaned(standby("pg2", "pg1")), replace(orphaned(standby("pg3", "pg1", at=900)), promoting=True)
    )
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), facts)) == ["Wait"]


def test_nobody_is_promoted_beside_a_stale_primary_that_still_takes_writes() -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1", term=2)), primary("pg3", term=1))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts) == (
        Wait("pg3", "it still takes writes; it has to stop first"),
    )


def test_a_standby_that_was_given_up_before_holds_no_failover_up() -> None:
    facts = seen(
        replace(down(primary("pg1")), postgresql=Postgresql.STOPPED),
        replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1", "pg3")),
    )
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts) == (Promote("pg2", 2),)


def test_a_minority_promotes_nobody() -> None:
    facts = seen(replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1", "pg3")))
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), facts)) == ["Refuse"]


def test_in_native_replication_whoever_is_given_up_is_out_of_service_but_the_last() -> None:
    facts = seen(primary("pg2"), primary("pg3"))
    assert failover(NATIVE, NATIVE.named("pg1"), facts) == (Dismiss("pg1", 2),)
    assert failover(NATIVE, NATIVE.named("pg1"), seen(primary("pg1", term=2), primary("pg2", term=2, led=1))) == ()


def test_in_native_replication_only_a_majority_dismisses_but_either_of_two() -> None:
    assert failover(NATIVE, NATIVE.named("pg1"), seen(primary("pg2"))) == ()
    two = replace(NATIVE, nodes=NATIVE.nodes[:2])
    assert failover(two, two.named("pg1"), seen(primary("pg2"))) == (Dismiss("pg1", 2),)


# Two looks


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        pytest.param((Detach("pg2", "old"), Attach("pg3")), (), (Attach("pg3"),), id="not on the second"),
        pytest.param((Dismiss("pg2", 2),), (Dismiss("pg2", 3),), (), id="of another term by then"),
        pytest.param((Dismiss("pg2", 2),), (Dismiss("pg2", 2),), (Dismiss("pg2", 2),), id="on both"),
    ],
)
def test_what_takes_a_node_away_is_decided_on_two_looks(first: Actions, second: Actions, left: Actions) -> None:
    assert confirmed(first, lambda: second) == left


def test_nothing_else_waits_for_a_second_look() -> None:
    assert confirmed((Attach("pg3"),), lambda: pytest.fail("it looked again")) == (Attach("pg3"),)


# Positions


@pytest.mark.parametrize(
    ("target", "fits"),
    [
        pytest.param(standby("pg3", "pg1", at=1000), True, id="stopped where the timeline forked"),
        pytest.param(standby("pg3", "pg1", at=1001), False, id="went on after the fork"),
        pytest.param(standby("pg3", "pg1", timeline=2, at=1500), True, id="same timeline, same place"),
        pytest.param(replace(standby("pg3", "pg1"), system=OTHER_SYSTEM), False, id="another system"),
        pytest.param(replace(standby("pg3", "pg1"), position=None), None, id="unknown end, as after a crash"),
        pytest.param(
            replace(standby("pg3", "pg1", timeline=2), history=(Switch(1, Lsn(5)),)), False, id="a namesake timeline"
        ),
    ],
)
def test_a_node_can_follow_if_its_log_is_part_of_the_primarys(target: NodeFacts, fits: bool | None) -> None:
    assert contains(primary("pg2", timeline=2, at=1500), target) is fits


@given(st.integers(0, 2**64 - 1))
def test_a_position_survives_being_written_and_read(number: int) -> None:
    assert Lsn.parse(str(Lsn(number))) == Lsn(number)


@pytest.mark.parametrize("text", ["", "0", "0/", "g/0", "0/0/0", " 0/0", "123456789/0"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no WAL position"):
        Lsn.parse(text)


# What holds in any situation


@st.composite
def any_node(draw: st.DrawFn, name: str) -> NodeFacts:
    """Facts that can be true of one node, likely or not."""
    postgresql = draw(st.sampled_from(Postgresql))
    up = postgresql is Postgresql.UP
    in_recovery = up and draw(st.booleans())
    term = draw(st.integers(1, 3))
    timeline = draw(st.integers(1, 3))
    view = draw(st.none() | st.builds(
        PgpoolFacts,
        st.sampled_from(WatchdogState), st.booleans(),
        st.fixed_dictionaries({node: st.sampled_from(BackendState) for node in NAMES}),
        st.none() | st.sampled_from(NAMES),
    ))  # fmt: skip
    return NodeFacts(
        name,
        reachable=True,
        postgresql=postgresql,
        member=draw(st.booleans()),
        term=term,
        led=draw(st.integers(0, term)),
        system=draw(st.sampled_from([SYSTEM, SYSTEM, OTHER_SYSTEM])),
        databases=draw(st.sampled_from([(), ("app",)])) if up else None,
        in_recovery=in_recovery,
        standby_signal=in_recovery or (postgresql is not Postgresql.ABSENT and not up and draw(st.booleans())),
        timeline=timeline,
        position=draw(st.none() | st.sampled_from([Lsn(900), Lsn(1000), Lsn(1100)])),
        history=tuple(Switch(number, Lsn(1000)) for number in range(1, timeline)),
        follows=draw(st.sampled_from([other for other in NAMES if other != name])) if in_recovery else None,
        streaming=in_recovery and draw(st.booleans()),
        half_copied=draw(st.sampled_from([False, False, False, True])),
        promoting=draw(st.sampled_from([False, False, False, True])),
        pgpool=view,
    )


any_nodes = st.tuples(*(any_node(name) for name in NAMES))
in_any_situation = settings(max_examples=60, deadline=None)


def decided(facts: ClusterFacts) -> dict[str, tuple[Action, ...]]:
    return {node.name: decide(CLUSTER, node, facts) for node in CLUSTER.nodes if facts.of(node.name).reachable}


def gain_writes(facts: ClusterFacts, actions: Iterable[Action]) -> set[str]:
    """Members that take writes because of `actions`."""
    gained = set()
    for action in actions:
        found = facts.of(action.node)
        if isinstance(action, Promote | Resume) or (
            isinstance(action, Start) and found.member and not found.standby_signal
        ):
            gained.add(action.node)
    return gained


@in_any_situation
@given(any_nodes)
def test_there_are_never_two_writable_primaries(nodes: tuple[NodeFacts, ...]) -> None:
    facts = seen(*nodes)
    actions = decided(facts)
    keep = {
        node.node
        for node in facts.members(CLUSTER)
        if node.writable and not node.half_copied and "Stop" not in kinds(actions[node.node])
    }
    gain = gain_writes(facts, (action for one in actions.values() for action in one))
    assert len(keep | gain) <= 1
    assert not gain & set().union(*({n.node} for n in facts.members(CLUSTER) if n.writable), set())


@in_any_situation
@given(any_nodes, st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_split_network_gains_no_second_primary(nodes: tuple[NodeFacts, ...], sides: list[bool]) -> None:
    """Each node sees its own side only; at most one side makes a node writable."""
    gaining = set()
    for side in (False, True):
        part = seen(*(node for node, where in zip(nodes, sides, strict=True) if where is side))
        if any(gain_writes(part, actions) for actions in decided(part).values()):
            gaining.add(side)
        for failed in CLUSTER.nodes:
            if gain_writes(part, failover(CLUSTER, failed, part)):
                gaining.add(side)
    assert len(gaining) <= 1


@in_any_situation
@given(any_nodes)
def test_data_that_may_be_the_only_copy_is_never_replaced(nodes: tuple[NodeFacts, ...]) -> None:
    facts = seen(*nodes)
    for name, actions in decided(facts).items():
        mine = facts.of(name)
        for action in actions:
            assert not isinstance(action, Rejoin)
            if isinstance(action, Clone):
                assert action.node == name
                assert action.source != name
                empty = mine.postgresql is Postgresql.ABSENT or mine.databases == ()
                assert mine.half_copied or (not mine.member and empty)


@in_any_situation
@given(any_nodes)
def test_actions_are_for_the_node_that_was_asked(nodes: tuple[NodeFacts, ...]) -> None:
    for name, actions in decided(seen(*nodes)).items():
        assert all(action.node == name or isinstance(action, Attach | Detach) for action in actions)


@in_any_situation
@given(any_nodes, st.permutations(NAMES))
def test_the_order_in_which_nodes_were_seen_changes_nothing(
    nodes: tuple[NodeFacts, ...], order: tuple[str, ...]
) -> None:
    by_name = {node.node: node for node in nodes}
    assert decided(seen(*nodes)) == decided(ClusterFacts({name: by_name[name] for name in order}))


def after(facts: ClusterFacts, actions: Iterable[Action]) -> ClusterFacts:
    """What is found once the actions have succeeded."""
    nodes = dict(facts.nodes)
    for action in actions:
        for name, change in changes(facts, action).items():
            nodes[name] = replace(nodes[name], **change)
    return ClusterFacts(nodes)


Change = dict[str, Any]  # fields of NodeFacts with their new values


def changes(facts: ClusterFacts, action: Action) -> dict[str, Change]:  # noqa: C901, PLR0911 - a case each
    node, mine = action.node, facts.of(action.node)
    follows: Change = {"in_recovery": True, "standby_signal": True, "streaming": True, "half_copied": False}
    match action:
        case Found():
            return {node: {"member": True, "term": 1, "led": 1, "position": Lsn(1000)}}
        case Clone(source=source) | Rejoin(source=source):
            there = facts.of(source)
            copied: Change = {
                "member": True, "term": there.term, "led": 0, "system": there.system, "databases": there.databases,
                "timeline": there.timeline, "position": there.position, "history": there.history,
                "postgresql": Postgresql.UP, "follows": source, **follows,
            }  # fmt: skip
            return {node: copied}
        case Start():
            started: Change = {"postgresql": Postgresql.UP, "in_recovery": mine.standby_signal}
            return {node: started | {"databases": mine.databases or (), "slots": frozenset()}}
        case Resume(term=term):
            begun: Change = {"led": term, "postgresql": Postgresql.UP, "in_recovery": False}
            begun |= {"databases": mine.databases or (), "slots": frozenset()}
            return {name: {"term": term} for name in facts.nodes} | {node: {"term": term, **begun}}
        case Stop():
            return {node: {"postgresql": Postgresql.DOWN, "databases": None}}
        case Promote(term=term):
            new: Change = {"led": term, "in_recovery": False, "standby_signal": False, "streaming": False}
            new |= {"timeline": (mine.timeline or 0) + 1, "follows": None, "promoting": False}
            return {name: {"term": term} for name in facts.nodes} | {node: {"term": term, **new}}
        case Lead(term=term):
            return {name: {"term": term} for name in facts.nodes} | {node: {"term": term, "led": term}}
        case Follow(primary=name):
            there = facts.of(name)
            return {node: {"follows": name, "timeline": there.timeline, "history": there.history, **follows}}
        case CreateSlots(slots=slots):
            return {node: {"slots": mine.slots | set(slots)}}
        case StartPgpool():
            return {node: {"pgpool": PgpoolFacts(WatchdogState.STANDBY, True, ALL_UP)}}
        case Attach() | Detach():
            state = BackendState.UP if isinstance(action, Attach) else BackendState.DOWN
            return {
                name: {"pgpool": replace(found.pgpool, backends={**found.pgpool.backends, node: state})}
                for name, found in facts.nodes.items()
                if found.pgpool is not None
            }
        case _:
            return {}


CHANGES_NOTHING = (Wait, AwaitRecovery, Refuse)


@in_any_situation
@given(any_nodes)
def test_it_comes_to_rest(nodes: tuple[NodeFacts, ...]) -> None:
    """Round after round, each node acting on what it sees, until nothing is left to change: soon, and one primary."""
    facts = seen(*nodes)
    for _ in range(12):
        pending = False
        for node in CLUSTER.nodes:
            todo = [one for one in decide(CLUSTER, node, facts) if not isinstance(one, CHANGES_NOTHING)]
            pending = pending or bool(todo)
            facts = after(facts, todo)
        writable = [one.node for one in facts.members(CLUSTER) if one.writable and not one.half_copied]
        if not pending:
            break
    assert not pending
    assert len(writable) <= 1


def test_three_empty_servers_become_a_cluster() -> None:
    facts = seen(fresh("pg1", "app"), fresh("pg2"), absent("pg3"))
    for _ in range(4):
        for node in CLUSTER.nodes:
            facts = after(facts, decide(CLUSTER, node, facts))
    right = rightful_primary(CLUSTER, facts)
    assert right is not None
    assert right.node == "pg1"
    assert [node.follows for node in facts.members(CLUSTER)] == [None, "pg1", "pg1"]
    assert all(node.databases == ("app",) for node in facts.members(CLUSTER))
    assert all(node.pgpool is not None for node in facts.members(CLUSTER))
