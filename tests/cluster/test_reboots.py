"""Servers that are restarted, in whatever order and after whatever end, are a healthy cluster again by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import Cluster
from tests.host import Host, together

SECONDS = 90.0


@pytest.fixture(autouse=True)
def nothing_is_lost(cluster: Cluster, pg1: Host) -> Iterator[None]:
    """What was acknowledged before is there afterwards, on all nodes, and each pgpool-II takes writes again.

    A primary that boots more slowly than pgpool-II gives it up comes back as a standby.
    """
    cluster.ask("CREATE TABLE IF NOT EXISTS booted (at timestamptz)", at=pg1)
    cluster.ask("INSERT INTO booted VALUES (clock_timestamp())", at=pg1)
    before = int(pg1.psql("SELECT count(*) FROM booted", database="app"))
    yield
    for host in cluster.hosts:
        cluster.ask("INSERT INTO booted VALUES (clock_timestamp())", at=host)
    assert len(set(cluster.checksums().values())) == 1
    assert int(pg1.psql("SELECT count(*) FROM booted", database="app")) == before + 3
    assert len(cluster.writable()) == 1


@pytest.mark.parametrize("name", [pytest.param("pg3", marks=pytest.mark.thorough), "pg2", "pg1"])
def test_one_after_the_other(cluster: Cluster, name: str) -> None:
    cluster.named(name).reboot()
    cluster.wait_healthy(SECONDS)


def test_all_together_in_order(cluster: Cluster) -> None:
    together(Host.stop, cluster.hosts)
    together(Host.start, cluster.hosts)
    cluster.wait_healthy(SECONDS)


def test_all_together_by_a_power_cut(cluster: Cluster) -> None:
    together(Host.kill, cluster.hosts)
    together(Host.start, cluster.hosts)
    cluster.wait_healthy(SECONDS)


@pytest.mark.thorough
@pytest.mark.parametrize("order", ["pg3 pg2 pg1", "pg2 pg1 pg3"])
def test_in_another_order_after_a_power_cut(cluster: Cluster, order: str) -> None:
    together(Host.kill, cluster.hosts)
    for name in order.split():
        cluster.named(name).start()
        time.sleep(3)
    cluster.wait_healthy(SECONDS)


def test_a_standby_that_was_away_for_a_while_comes_back(cluster: Cluster) -> None:
    """pgpool-II has given it up by then; nobody attaches it by hand."""
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    standby.kill()
    cluster.until(lambda status: status.nodes[standby.name].pgpool == "down", "it is given up", 60, primary)
    cluster.ask("CREATE TABLE IF NOT EXISTS meanwhile ()", at=primary)
    standby.start()
    cluster.wait_healthy(SECONDS)
