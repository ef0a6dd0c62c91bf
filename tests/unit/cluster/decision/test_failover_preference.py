"""failover_priority decides between standbys that have received as much, and one with nofailover is never promoted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.decision.test_decide_always import any_nodes, in_any_situation
from tests.unit.cluster.nodes import (
    CLUSTER,
    away,
    crashed,
    healthy,
    kinds,
    make_cluster,
    orphaned,
    pgpool,
    primary,
    seen,
    standby,
)

from pgpool_cluster.decision import promotion
from pgpool_cluster.decision.actions import Follow, Promote, Refuse
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.facts import Lsn, NodeFacts
from pgpool_cluster.decision.promotion import choose_new_primary, failover, in_place_of
from pgpool_cluster.decision.situation import Policy, rank
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.operations import switchover

LOSSY = make_cluster(synchronous=0)


def preferring(cluster: Cluster = CLUSTER, *, barred: frozenset[str] = frozenset(), **priorities: int) -> Cluster:
    nodes = (
        replace(one, failover_priority=priorities.get(one.name, 100), nofailover=one.name in barred)
        for one in cluster.nodes
    )
    return replace(cluster, nodes=tuple(nodes))


def left(*members: NodeFacts) -> tuple[NodeFacts, ...]:
    """The standbys after the loss of pg1."""
    gone = frozenset({"pg1"})
    return (away("pg1"), *(replace(orphaned(one), silent=gone, pgpool=pgpool(leader=False)) for one in members))


def two(second: int = 1000, third: int = 1000) -> tuple[NodeFacts, ...]:
    return left(standby("pg2", "pg1", at=second), standby("pg3", "pg1", at=third))


PG3 = frozenset({"pg3"})
BOTH = frozenset({"pg2", "pg3"})


# The order


@pytest.mark.parametrize(
    ("cluster", "nodes", "best"),
    [
        pytest.param(CLUSTER, two(), "pg2", id="the order in cluster.yml"),
        pytest.param(preferring(pg3=101), two(), "pg3", id="the higher value"),
        pytest.param(preferring(pg2=0), two(), "pg3", id="the lowest value is last"),
        pytest.param(preferring(pg3=1000), two(1001, 1000), "pg2", id="the most advanced one in any case"),
        pytest.param(preferring(pg3=1), two(1000, 1001), "pg3", id="whatever its value"),
        pytest.param(
            preferring(pg3=101), left(standby("pg2", "pg1"), replace(standby("pg3", "pg1"), stalled="paused")), "pg3",
            id="before one that replays",
        ),
        pytest.param(
            CLUSTER, left(replace(standby("pg2", "pg1"), stalled="paused"), standby("pg3", "pg1")), "pg3",
            id="among equals, one that replays",
        ),
        pytest.param(
            preferring(pg3=101),
            left(standby("pg2", "pg1"), replace(standby("pg3", "pg1"), needs={"max_connections": 200})), "pg2",
            id="but not one whose server would shut down",
        ),
        pytest.param(preferring(barred=frozenset({"pg2"})), two(), "pg3", id="not one with nofailover"),
        pytest.param(preferring(barred=frozenset({"pg2"})), two(9000), "pg3", id="even if it has received more"),
        pytest.param(preferring(barred=BOTH), two(), None, id="none"),
    ],
)  # fmt: skip
def test_the_new_primary(cluster: Cluster, nodes: tuple[NodeFacts, ...], best: str | None) -> None:
    found = choose_new_primary(cluster, seen(*nodes))
    assert (found.node if found else None) == best


# A standby with nofailover


def test_it_follows_the_new_primary_and_counts_for_the_majority_and_the_missing_commits() -> None:
    cluster = preferring(barred=frozenset({"pg2"}))
    assert in_place_of(cluster, seen(*two()), "pg1") == (Promote("pg3", 2), Follow("pg2", "pg3", 2))
    actions = decide(cluster, cluster.named("pg3"), seen(*two()))
    assert Promote("pg3", 2) in actions
    assert kinds(decide(cluster, cluster.named("pg2"), seen(*two()))) == ["Wait"]


@pytest.mark.parametrize("name", ["pg2", "pg3"])
def test_if_only_it_may_have_a_commit_an_administrator_decides(name: str) -> None:
    cluster = preferring(barred=PG3)
    [refusal] = decide(cluster, cluster.named("pg2"), seen(*two(1000, 1001)))
    assert in_place_of(cluster, seen(*two(1000, 1001)), "pg1") == (refusal,)
    assert isinstance(refusal, Refuse)
    assert (refusal.node, "a commit may exist on pg3 alone" in refusal.reason) == ("pg2", True)
    assert f"pgpoolctl switchover --accept-loss {name}" in refusal.hint


def test_without_synchronous_commits_it_delays_no_failover() -> None:
    """Its additional WAL has been acknowledged for no other reason, so it returns from the new primary."""
    cluster = preferring(LOSSY, barred=PG3)
    assert in_place_of(cluster, seen(*two(1000, 1001)), "pg1") == (Promote("pg2", 2),)


def test_if_no_other_standby_is_in_sight_the_hint_names_it() -> None:
    cluster = preferring(LOSSY, barred=PG3)
    [refusal] = in_place_of(cluster, seen(away("pg2"), *left(standby("pg3", "pg1"))), "pg1")
    assert isinstance(refusal, Refuse)
    assert "excludes every reachable standby (pg3)" in refusal.reason
    assert "pgpoolctl switchover --accept-loss pg3" in refusal.hint


def test_a_crashed_primary_does_not_wait_for_a_standby_that_is_never_promoted() -> None:
    cluster = preferring(barred=BOTH)
    dead = (crashed(primary("pg1")), *(replace(one, silent=frozenset()) for one in two()[1:]))
    assert kinds(decide(CLUSTER, CLUSTER.named("pg1"), seen(*dead), Policy(yields=True))) == ["Wait"]
    assert kinds(decide(cluster, cluster.named("pg1"), seen(*dead), Policy(yields=True))) == ["Resume"]


@in_any_situation
@given(any_nodes, st.frozensets(st.sampled_from([one.name for one in CLUSTER.nodes])), st.sampled_from([0, 1, 2]))
def test_it_is_never_promoted(nodes: tuple[NodeFacts, ...], barred: frozenset[str], synchronous: int) -> None:
    cluster = preferring(replace(CLUSTER, synchronous=synchronous), barred=barred)
    facts = seen(*nodes)
    actions = [action for node in cluster.nodes for action in decide(cluster, node, facts)]
    actions += [action for node in cluster.nodes for action in failover(cluster, node, facts)]
    actions += [action for node in cluster.nodes for action in in_place_of(cluster, facts, node.name)]
    assert not barred & {action.node for action in actions if isinstance(action, Promote)}


@in_any_situation
@given(any_nodes, st.frozensets(st.sampled_from([one.name for one in CLUSTER.nodes])))
def test_no_standby_is_promoted_over_a_commit_that_only_another_one_may_have(
    nodes: tuple[NodeFacts, ...], barred: frozenset[str]
) -> None:
    cluster, facts = preferring(barred=barred), seen(*nodes)
    ranks = {one.node: rank(one) for one in facts.members(cluster) if promotion._counts(one)}
    for node in cluster.nodes:
        for action in in_place_of(cluster, facts, node.name):
            assert not isinstance(action, Promote) or ranks[action.node] == max(ranks.values())


# A switchover


@pytest.mark.parametrize(
    ("cluster", "chosen"),
    [(CLUSTER, "pg3"), (preferring(pg2=101), "pg2"), (preferring(barred=PG3), "pg2")],
    ids=["the most advanced", "the preferred one receives the rest before", "not the one with nofailover"],
)
def test_a_switchover_without_a_name_respects_both_keys(cluster: Cluster, chosen: str) -> None:
    pg1, pg2, pg3 = healthy()
    facts = seen(pg1, pg2, replace(pg3, position=Lsn(2000)))
    assert switchover.choose(cluster, facts, None)[1].node == chosen


@pytest.mark.parametrize(
    ("change", "chosen"), [({"stalled": "replay is paused"}, "pg3"), ({"held": True}, "pg3")], ids=["stalled", "held"]
)
def test_a_switchover_without_a_name_passes_an_unfit_standby_over(change: dict[str, Any], chosen: str) -> None:
    pg1, pg2, pg3 = healthy()
    facts = seen(pg1, replace(pg2, **change), pg3)
    assert switchover.choose(preferring(pg2=101), facts, None)[1].node == chosen


def test_a_switchover_to_a_node_with_nofailover_is_refused() -> None:
    with pytest.raises(OperationError, match="pg3 is never promoted") as caught:
        switchover.choose(preferring(barred=PG3), seen(*healthy()), "pg3")
    assert "pgpoolctl switchover chooses another node" in caught.value.hint


def test_a_switchover_without_a_candidate_is_refused() -> None:
    with pytest.raises(OperationError, match="no reachable standby can be promoted"):
        switchover.choose(preferring(barred=BOTH), seen(*healthy()), None)
