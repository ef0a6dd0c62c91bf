"""The decisions of pgpool-II's failover_command."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.nodes import (
    CLUSTER,
    NATIVE,
    away,
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

from pgpool_cluster.decision.actions import Attach, Dismiss, Follow, Promote, Refuse, Wait
from pgpool_cluster.decision.facts.excuse import NO_EXCUSE, Excuse
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, PgpoolFacts, Postgresql
from pgpool_cluster.decision.promotion import choose_new_primary, failover


def dead_primary(*others: NodeFacts, view: PgpoolFacts | None = None) -> ClusterFacts:
    first, *rest = others
    return seen(away("pg1"), replace(first, pgpool=view or pgpool("pg1")), *rest)


def test_the_most_advanced_standby_is_promoted_and_the_others_follow_it() -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1", at=900)), orphaned(standby("pg3", "pg1", at=1000)))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts) == (Promote("pg3", 2), Follow("pg2", "pg3", 2))


def test_of_equal_standbys_the_first_one_is_promoted() -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1")))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts)[0] == Promote("pg2", 2)


def test_a_later_timeline_counts_more_than_a_longer_log() -> None:
    facts = seen(standby("pg2", "pg1", timeline=1, at=9000), standby("pg3", "pg1", timeline=2, at=1500))
    best = choose_new_primary(CLUSTER, facts)
    assert best is not None
    assert best.node == "pg3"


def test_a_dead_standby_causes_no_action() -> None:
    assert failover(CLUSTER, CLUSTER.named("pg3"), seen(*healthy()[:2])) == ()


def test_a_failed_standby_is_not_replaced_while_only_the_agent_of_the_primary_is_away() -> None:
    """The primary serves, and pgpool-II has not given it up."""
    cluster = make_cluster(synchronous=0)
    left = replace(standby("pg2", "pg1"), pgpool=pgpool("pg3"))
    assert failover(cluster, cluster.named("pg3"), seen(left, away("pg1"), down(standby("pg3", "pg1")))) == ()
    assert kinds(failover(cluster, cluster.named("pg1"), seen(left, away("pg1"), down(standby("pg3", "pg1"))))) == [
        "Promote"
    ]


def test_a_false_alarm_attaches_the_primary_again() -> None:
    assert failover(CLUSTER, CLUSTER.named("pg1"), seen(*healthy())) == (Attach("pg1"),)


def test_trap_3_a_planned_restart_promotes_no_standby() -> None:
    restarting = replace(down(primary("pg1")), postgresql=Postgresql.STARTING)
    facts = seen(restarting, orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1")))
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), facts)) == ["Wait"]


def test_trap_8_no_standby_is_promoted_while_an_acknowledged_commit_may_be_elsewhere() -> None:
    """With synchronous: 1, pg3 alone may have the last commits. pgpool-II still considers it up."""
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


def test_no_standby_is_promoted_beside_a_stale_primary_that_still_accepts_writes() -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1", term=2)), primary("pg3", term=1))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts) == (
        Wait("pg3", "it still accepts writes; it must stop first"),
    )


def alone(*backends_down: str, excuse: Excuse = NO_EXCUSE) -> ClusterFacts:
    """The primary is stopped, pg3 is away, and pgpool-II has detached `backends_down`. pg1 has recorded `excuse`."""
    return seen(
        replace(down(primary("pg1")), postgresql=Postgresql.STOPPED, excuse=excuse),
        replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool(*backends_down)),
    )


def test_a_standby_is_not_excused_because_pgpool_has_detached_it() -> None:
    [refusal] = failover(CLUSTER, CLUSTER.named("pg1"), alone("pg1", "pg3"))
    assert isinstance(refusal, Refuse)
    assert "pgpoolctl switchover --accept-loss pg2" in refusal.hint


def test_a_standby_that_the_primary_has_excused_does_not_block_a_failover() -> None:
    facts = alone("pg1", excuse=Excuse(1, 2, ("pg3",)))
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts) == (Promote("pg2", 2, (1, 2)),)


def test_the_latest_excuse_counts() -> None:
    facts = alone("pg1", excuse=Excuse(1, 2, ("pg3",)))
    later = replace(facts.of("pg2"), excuse=Excuse(2, 0, ()))
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), seen(facts.of("pg1"), later))) == ["Refuse"]


@pytest.mark.parametrize("state", [{"half_copied": True}, {"member": False}, {"position": None}], ids=str)
def test_a_server_that_is_up_but_may_have_lost_data_does_not_count(state: dict[str, Any]) -> None:
    facts = dead_primary(orphaned(standby("pg2", "pg1")), replace(orphaned(standby("pg3", "pg1")), **state))
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), facts)) == ["Refuse"]


def test_a_minority_promotes_no_standby() -> None:
    facts = seen(replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1", "pg3")))
    assert kinds(failover(CLUSTER, CLUSTER.named("pg1"), facts)) == ["Refuse"]


def test_in_native_replication_every_lost_node_except_the_last_is_dismissed() -> None:
    facts = seen(primary("pg2"), primary("pg3"))
    assert failover(NATIVE, NATIVE.named("pg1"), facts) == (Dismiss("pg1", 2),)
    assert failover(NATIVE, NATIVE.named("pg1"), seen(primary("pg1", term=2), primary("pg2", term=2, led=1))) == ()


def test_in_native_replication_only_a_majority_dismisses_or_either_of_two_nodes() -> None:
    assert failover(NATIVE, NATIVE.named("pg1"), seen(primary("pg2"))) == ()
    two = replace(NATIVE, nodes=NATIVE.nodes[:2])
    assert failover(two, two.named("pg1"), seen(primary("pg2"))) == (Dismiss("pg1", 2),)
