"""The agents notice a lost node themselves, and a node that has lost the others serves no clients any more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import (
    CLUSTER,
    NAMES,
    away,
    crashed,
    down,
    healthy,
    kinds,
    make_cluster,
    orphaned,
    pgpool,
    primary,
    seen,
    standby,
)

from pgpool_cluster.decision import fencing
from pgpool_cluster.decision.actions import Detach, Fence, Promote, StopPgpool, Wait
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.facts import NodeFacts, Postgresql
from pgpool_cluster.decision.situation import Policy, given_up, silent
from pgpool_cluster.definition.cluster import Cluster, Mode, Service

PG1 = frozenset({"pg1"})
LEFT = tuple(
    replace(orphaned(standby(name, "pg1")), silent=PG1, pgpool=pgpool(leader=False)) for name in ("pg2", "pg3")
)
"""The standbys of pg1 after its loss; no pgpool-II leads yet, and each still believes that pg1 is up."""
ALONE = Policy(alone_seconds=fencing.FENCE_SECONDS)


def decided(name: str, *nodes: NodeFacts, policy: Policy | None = None, cluster: Cluster = CLUSTER) -> list[object]:
    return list(decide(cluster, cluster.named(name), seen(*nodes), policy))


def promoted(*nodes: NodeFacts, policy: Policy | None = None, cluster: Cluster = CLUSTER) -> list[str]:
    """The nodes that decide to promote themselves."""
    every = {one.node: decided(one.node, *nodes, policy=policy, cluster=cluster) for one in nodes if one.reachable}
    return [name for name, actions in every.items() if any(isinstance(action, Promote) for action in actions)]


# A primary that is lost


def test_a_standby_takes_over_once_most_nodes_have_no_sign_of_life() -> None:
    assert silent(CLUSTER, seen(away("pg1"), *LEFT), "pg1")
    assert promoted(away("pg1"), *LEFT) == ["pg2"]


def test_the_agents_do_not_wait_for_a_primary_that_took_writes_a_moment_ago() -> None:
    assert promoted(away("pg1"), *LEFT, policy=Policy(lately=PG1)) == ["pg2"]


def test_one_node_alone_does_not_declare_another_one_dead() -> None:
    second, third = LEFT
    nodes = (away("pg1"), second, replace(third, silent=frozenset()))
    assert not given_up(CLUSTER, seen(*nodes), "pg1")
    assert promoted(*nodes) == []
    (wait,) = decided("pg2", *nodes)
    assert isinstance(wait, Wait)
    assert wait.reason == "pg1 is unreachable, and no quorum has declared it dead"


def test_a_witness_counts_for_the_majority() -> None:
    pg1, pg2, witness = CLUSTER.nodes
    cluster = replace(CLUSTER, nodes=(pg1, pg2, replace(witness, runs=frozenset({Service.PGPOOL}))), synchronous=0)
    second = LEFT[0]
    assert promoted(away("pg1"), second, NodeFacts("pg3", silent=PG1), cluster=cluster) == ["pg2"]
    assert promoted(away("pg1"), second, NodeFacts("pg3"), cluster=cluster) == []


def test_a_standby_that_a_failed_attempt_has_cut_off_takes_over() -> None:
    """It no longer knows which node it followed."""
    second, third = (replace(one, follows=None, term=2) for one in LEFT)
    assert promoted(away("pg1"), second, third) == ["pg2"]
    assert promoted(away("pg1"), second, replace(third, silent=frozenset())) == []


def test_a_cut_off_standby_is_not_promoted_while_a_commit_may_be_elsewhere() -> None:
    cluster = make_cluster(count=3, synchronous=1)
    gone = frozenset({"pg1", "pg3"})
    nodes = (away("pg1"), replace(LEFT[0], follows=None, silent=gone), away("pg3"))
    assert promoted(*nodes, cluster=cluster) == []


@pytest.mark.parametrize("leader", [False, True])
def test_a_crashed_primary_is_replaced_before_it_has_replayed(leader: bool) -> None:
    left = tuple(replace(one, silent=frozenset()) for one in LEFT)
    dead = replace(crashed(primary("pg1")), pgpool=pgpool(leader=leader))
    assert promoted(dead, *left) == ["pg2"]
    assert kinds(decide(CLUSTER, CLUSTER.named("pg1"), seen(dead, *left), Policy(yields=True)))[0] == "Wait"
    assert kinds(decide(CLUSTER, CLUSTER.named("pg1"), seen(dead, *left), Policy()))[0] == "Resume"


def test_a_crashed_primary_without_a_successor_restarts_at_once() -> None:
    dead = crashed(primary("pg1"))
    nodes = (dead, away("pg2"), replace(crashed(standby("pg3", "pg1")), standby_signal=True))
    assert kinds(decide(CLUSTER, CLUSTER.named("pg1"), seen(*nodes), Policy(yields=True))) == ["Resume"]


def test_a_primary_that_was_shut_down_is_expected_back() -> None:
    left = tuple(replace(one, silent=frozenset()) for one in LEFT)
    assert promoted(down(primary("pg1")), *left) == []


# A standby that is lost


@pytest.mark.parametrize("name", ["pg1", "pg2"])
def test_each_node_detaches_a_standby_that_shows_no_sign_of_life(name: str) -> None:
    pg1, pg2, _ = healthy()
    gone = frozenset({"pg3"})
    detach = Detach("pg3", "it shows no sign of life", certain=True)
    assert decided(name, replace(pg1, silent=gone), replace(pg2, silent=gone), away("pg3")) == [detach]
    assert decided(name, pg1, pg2, away("pg3")) == [], "most nodes have signs of life"


@pytest.mark.parametrize(
    ("state", "detached"),
    [
        (Postgresql.DOWN, True), (Postgresql.STOPPED, True), (Postgresql.ABSENT, True), (Postgresql.HANGING, True),
        (Postgresql.STARTING, False),
    ],
)  # fmt: skip
def test_each_node_detaches_a_standby_whose_server_has_ended(state: Postgresql, *, detached: bool) -> None:
    """A server that hangs may answer the next question, so only that detachment is decided twice."""
    pg1, pg2, pg3 = healthy()
    certain = state is not Postgresql.HANGING
    wanted = [Detach("pg3", f"its PostgreSQL is {state}", certain=certain)] if detached else []
    for name in ("pg1", "pg2"):
        assert decided(name, pg1, pg2, replace(down(pg3), postgresql=state)) == wanted


# A node that has lost the others


@pytest.mark.parametrize("seconds", [0.0, fencing.FENCE_SECONDS - 0.1])
def test_a_primary_without_contact_serves_for_a_moment(seconds: float) -> None:
    pg1, *_ = healthy()
    assert decided("pg1", pg1, away("pg2"), away("pg3"), policy=Policy(alone_seconds=seconds)) == []


def test_then_it_is_fenced() -> None:
    pg1, *_ = healthy()
    assert decided("pg1", pg1, away("pg2"), away("pg3"), policy=ALONE) == [
        Fence("pg1", fencing.REASON),
        StopPgpool("pg1", fencing.REASON),
    ]


def test_a_lone_standby_answers_no_stale_reads() -> None:
    second = LEFT[0]
    found = decided("pg2", away("pg1"), second, away("pg3"), policy=ALONE)
    assert StopPgpool("pg2", fencing.REASON) in found
    assert not any(isinstance(action, Fence) for action in found)


def test_a_fenced_primary_waits_for_a_majority_and_then_serves_again() -> None:
    fenced = crashed(primary("pg1"))
    assert kinds(decide(CLUSTER, CLUSTER.named("pg1"), seen(fenced, away("pg2"), away("pg3")), ALONE)) == ["Wait"]
    back = seen(fenced, standby("pg2", "pg1"), away("pg3"))
    assert kinds(decide(CLUSTER, CLUSTER.named("pg1"), back)) == ["Resume"]


def test_of_two_nodes_neither_is_fenced_because_neither_replaces_the_other() -> None:
    cluster = make_cluster(count=2, synchronous=0)
    pg1, *_ = healthy()
    assert decided("pg1", pg1, away("pg2"), policy=ALONE, cluster=cluster) == []


def test_in_native_replication_nothing_is_fenced() -> None:
    cluster = make_cluster(Mode.NATIVE_REPLICATION, synchronous=0)
    nodes = (replace(primary("pg1"), pgpool=pgpool()), away("pg2"), away("pg3"))
    found = decide(cluster, cluster.named("pg1"), seen(*nodes), ALONE)
    assert not {"Fence", "StopPgpool"} & set(kinds(found))


@pytest.mark.parametrize(("missing", "alone"), [((), False), (("pg2",), False), (("pg2", "pg3"), True)])
def test_more_than_half_of_the_nodes_are_a_majority(missing: tuple[str, ...], *, alone: bool) -> None:
    assert set(missing) <= set(NAMES)
    assert fencing.is_alone(CLUSTER, missing) is alone
