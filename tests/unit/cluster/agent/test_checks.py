"""The checks of a node as a whole."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.cluster.checked import POOL, Machine

from pgpool_cluster.agent import checks
from pgpool_cluster.decision.facts import NodeFacts
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import Role
from pgpool_cluster.machine.addresses import placed


def test_a_cluster_of_two_nodes_is_reported(pg1: Machine) -> None:
    pg1.cluster = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")
    pg1.forgets("pg3")
    del pg1.problems["pg3"]
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    assert [check.what for check in pg1.failed()] == ["a node may fail"]


def test_a_witness_is_not_asked_about_postgresql(pg1: Machine) -> None:
    text = "nodes: {pg1: {address: 10.0.0.1, runs: [pgpool]}, pg2: db2.example.org, pg3: 10.0.0.3}"
    pg1.cluster = placed(parse(text, "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    pg1.server, pg1.facts = None, NodeFacts("pg1", key="k", pgpool=POOL)
    found = checks.run(pg1.here)
    assert pg1.logins == {Role.CHECK}, "it knows no other role's password"
    assert [check for check in found if not check.ok] == []
    assert not [check for check in found if check.what.startswith(("PostgreSQL 17", "it belongs"))]
    assert [check for check in found if check.what == "pgpool-II runs"]


def test_an_answer_that_is_no_list_of_checks_is_a_check_that_fails() -> None:
    found = checks.unreadable("pg2")
    assert (found.node, found.ok) == ("pg2", False)
    assert "on pg2; install the same version of pgpool2-cluster" in found.fix
