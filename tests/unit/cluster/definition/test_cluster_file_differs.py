"""Nodes with another cluster.yml have no vote, and every node reports that (finding D8)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import CLUSTER, away, healthy, make_cluster, orphaned, pgpool, seen, standby

from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.decision.promotion import failover
from pgpool_cluster.decision.reports import status
from pgpool_cluster.definition.cluster_file import parse

SAME = CLUSTER.fingerprint
THREE = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}"


def of_file(file: str, *nodes: NodeFacts) -> tuple[NodeFacts, ...]:
    return tuple(replace(node, file=file, standbys_came=True) for node in nodes)


@pytest.mark.parametrize(
    "other",
    [
        "nodes: {pg1: 10.0.0.1, pg3: 10.0.0.3, pg2: 10.0.0.2}",
        "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3, pg4: 10.0.0.4}",
        "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.9}",
        f"{THREE}\nsynchronous: 0",
        f"{THREE}\nmode: native_replication",
        THREE.replace("10.0.0.2", "{address: 10.0.0.2, failover_priority: 101}"),
        THREE.replace("10.0.0.2", "{address: 10.0.0.2, nofailover: true}"),
    ],
)
def test_a_difference_that_affects_decisions_makes_another_file(other: str) -> None:
    assert parse(other, "cluster.yml", "pg1").fingerprint != parse(THREE, "cluster.yml", "pg1").fingerprint


def test_a_difference_that_one_node_may_have_does_not() -> None:
    other = f"{THREE}\nclients: [10.0.0.0/24]\npostgresql_conf: {{work_mem: 8MB}}"
    assert parse(other, "cluster.yml", "pg2").fingerprint == parse(THREE, "cluster.yml", "pg1").fingerprint


def test_keys_of_a_later_package_change_nothing_unless_they_are_used() -> None:
    """During an upgrade, nodes with either package must count each other's votes."""
    default = THREE.replace("10.0.0.2", "{address: 10.0.0.2, failover_priority: 100, nofailover: false}")
    assert parse(default, "cluster.yml", "pg1").fingerprint == parse(THREE, "cluster.yml", "pg1").fingerprint
    assert parse(THREE, "cluster.yml", "pg1").fingerprint == "ccdb6d06884e9b39"


def test_a_node_with_another_file_does_not_count_for_a_majority() -> None:
    standbys = (replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1")), orphaned(standby("pg3", "pg1")))
    agreeing = seen(away("pg1"), *of_file(SAME, *standbys))
    differing = seen(away("pg1"), *of_file(SAME, standbys[0]), *of_file("another", standbys[1]))
    assert agreeing.majority(CLUSTER)
    assert not differing.majority(CLUSTER)
    [refusal] = failover(CLUSTER, CLUSTER.named("pg1"), differing)
    assert "too few nodes answer" in getattr(refusal, "reason", "")


def test_two_files_do_not_both_find_a_majority() -> None:
    """Two nodes are appended at once: three nodes have the old file, and two have the new one."""
    nodes = ", ".join(f"pg{number}: 10.0.0.{number}" for number in range(1, 6))
    old, new = make_cluster(), parse(f"nodes: {{{nodes}}}", "cluster.yml", "pg1")
    first = seen(*of_file(old.fingerprint, *healthy()[:1]), *of_file(new.fingerprint, *healthy()[1:]))
    assert [first.majority(old), first.majority(new)].count(True) <= 1


def test_a_node_of_an_older_package_keeps_its_vote() -> None:
    assert seen(*of_file("", *healthy())).majority(CLUSTER)


def test_the_cluster_is_not_healthy_and_says_why() -> None:
    nodes = healthy()
    facts = ClusterFacts({one.node: one for one in (*of_file(SAME, *nodes[:2]), *of_file("another", nodes[2]))})
    assert status.healthy(CLUSTER, seen(*of_file(SAME, *nodes)))
    assert not status.healthy(CLUSTER, facts)
    [note] = status.differing(CLUSTER, facts, "pg1")
    assert note.startswith("cluster.yml of pg3 differs from that of pg1")
    assert "hint: " in note
