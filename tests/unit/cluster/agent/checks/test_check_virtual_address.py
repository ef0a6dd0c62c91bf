"""A virtual address that a host outside of the cluster has, that two nodes have, or none."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from tests.unit.cluster.checked import CLUSTER, Machine
from tests.unit.cluster.nodes import healthy, seen

from pgpool_cluster.agent.checks import check_virtual_address, checks
from pgpool_cluster.agent.checks.checklist import Checklist
from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.definition.cluster import Mode


@pytest.fixture
def virtual(pg1: Machine) -> Machine:
    pg1.cluster = replace(CLUSTER, virtual_ip=ipaddress.ip_interface("10.0.0.50/24"))
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    return pg1


def test_another_host_with_the_virtual_address_is_named(virtual: Machine) -> None:
    virtual.neighbours["10.0.0.50"] = "02:00:00:00:00:99"
    (found,) = virtual.failed()
    assert found.what == "no host outside of the cluster has the virtual address"
    assert found.why == "a host with the link-layer address 02:00:00:00:00:99 answers for 10.0.0.50"
    assert "ip neighbour show 10.0.0.50" in found.fix


def test_a_node_may_have_the_virtual_address(virtual: Machine) -> None:
    virtual.neighbours["10.0.0.50"] = virtual.neighbours["10.0.0.3"]
    assert virtual.failed() == []


def test_a_host_whose_link_layer_address_is_unknown_is_not_reported(virtual: Machine) -> None:
    """The address is free, or behind a router."""
    assert virtual.failed() == []
    assert [one for one in checks.run(virtual.here) if "virtual address" in one.what]


def test_the_node_with_the_virtual_address_does_not_check_it(virtual: Machine) -> None:
    virtual.neighbours["10.0.0.50"] = "02:00:00:00:00:99"
    virtual.becomes(virtual_ip=True)
    assert virtual.failed() == []


def of_holders(virtual: Machine, *holders: str, nodes: tuple[NodeFacts, ...] = healthy()) -> dict[str, str]:
    """Return the failed checks, and their fixes, if these nodes have the address."""
    here, checklist = virtual.here, Checklist("pg1")
    facts = (replace(one, virtual_ip=one.node in holders, file=virtual.cluster.fingerprint) for one in nodes)
    here.seen.publish(seen(*facts))
    check_virtual_address._of_holders(here, checklist)
    return {check.why: check.fix for check in checklist.checks if not check.ok}


def test_two_nodes_with_the_virtual_address_are_named(virtual: Machine) -> None:
    found = of_holders(virtual, "pg1", "pg3")
    assert list(found) == ["pg1 and pg3 have 10.0.0.50"]
    assert "ip address del" in found["pg1 and pg3 have 10.0.0.50"]
    assert of_holders(virtual, "pg2") == {}


def test_a_virtual_address_that_no_node_has_is_reported_with_the_node_that_should_have_it(virtual: Machine) -> None:
    assert list(of_holders(virtual)) == ["no node has 10.0.0.50, and pg1 should have it"]


def test_a_missing_address_is_not_reported_without_a_primary_or_a_majority(virtual: Machine) -> None:
    pg1, *others = healthy()
    assert of_holders(virtual, nodes=tuple(others)) == {}
    assert of_holders(virtual, nodes=(pg1,)) == {}


def test_where_pgpool_moves_the_address_its_absence_is_not_judged(virtual: Machine) -> None:
    virtual.cluster = replace(virtual.cluster, mode=Mode.NATIVE_REPLICATION, synchronous=0)
    assert of_holders(virtual) == {}
