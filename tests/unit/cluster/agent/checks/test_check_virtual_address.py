"""A virtual address that a host outside of the cluster has."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from tests.unit.cluster.checked import CLUSTER, Machine

from pgpool_cluster.agent.checks import checks


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
