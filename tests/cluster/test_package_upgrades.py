"""apt upgrades PostgreSQL and pgpool-II of a running cluster: clients see a restart, and the primary stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.load import Ledger, ledger
from tests.cluster.watchdog import leaders
from tests.host import Host, together

POSTGRESQL = "postgresql-$(ls /etc/postgresql)"
REINSTALLED = "apt-get install -y -q --reinstall {packages} </dev/null"
"""Reinstalls the same version: dpkg runs prerm, unpacks and runs postinst as for a later version."""
SLOW_SECONDS = 20
SLOW = f"""#!/bin/sh
case "$*" in
    *postgresql*start*) sleep {SLOW_SECONDS} ;;
esac
"""
"""A policy-rc.d that delays the start of the server, as an upgrade of many packages would."""
RESTART_SECONDS = 60.0
"""How long clients may be without the primary, in addition to dpkg's own time. A pgpool-II whose health
checks meet the restart searches for a primary for 30 s (search_primary_node_timeout)."""


def upgrade(host: Host, *packages: str) -> None:
    """Upgrade packages with apt, and check that PostgreSQL, if among them, was restarted."""
    before = began(host)
    host.run(REINSTALLED.format(packages=" ".join(packages)), seconds=600)
    assert (began(host) != before) == (POSTGRESQL in packages)


def began(host: Host) -> str:
    """Return the start time of the host's PostgreSQL, which may still be starting."""
    psql = "runuser -u postgres -- psql -XAtqc 'SELECT pg_postmaster_start_time()'"
    return host.until(psql, 60)


def no_other_node_took_over(cluster: Cluster, at: Host, through: Host, name: str, work: Callable[[], object]) -> Ledger:
    """Do `work` while clients write; check that primary and timeline are unchanged, and return the account."""
    primary = cluster.primary()
    timeline = cluster.status().nodes[primary.name].timeline
    with ledger(cluster, at=at, through=through, name=name) as account:
        work()
        cluster.wait_healthy(120)
        before = len(at.run("cat /root/ledger.log").splitlines())
        at.until(f"[ $(wc -l </root/ledger.log) -ge {before + 3} ]", 60)
    status = cluster.status()
    assert status.healthy, status.text
    assert (status.nodes[primary.name].role, status.nodes[primary.name].timeline) == ("primary", timeline)
    assert cluster.writable() == [primary.name]
    for host in cluster.hosts:
        assert account.lost(host) == set(), host
    print(f"{name}: the longest time without an acknowledged write: {account.longest_gap:.1f} s")
    return account


def test_1_postgresql_is_upgraded_on_the_primary(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    account = no_other_node_took_over(cluster, pg3, pg3, "upgraded", lambda: upgrade(pg1, POSTGRESQL))
    assert account.longest_gap < RESTART_SECONDS, account.errors


@pytest.fixture
def slow(pg1: Host) -> Iterator[None]:
    """The time between stop and start of pg1's server is far longer than pgpool-II's health checks."""
    pg1.put("/usr/sbin/policy-rc.d", SLOW, mode=0o755)
    yield
    pg1.run("rm /usr/sbin/policy-rc.d")


@pytest.mark.thorough
@pytest.mark.usefixtures("slow")
def test_2_an_upgrade_longer_than_a_failover_causes_none(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    account = no_other_node_took_over(cluster, pg3, pg3, "slow", lambda: upgrade(pg1, POSTGRESQL))
    assert SLOW_SECONDS < account.longest_gap < SLOW_SECONDS + RESTART_SECONDS, account.errors


@pytest.mark.thorough
def test_3_the_cluster_package_is_upgraded_in_the_same_run(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    """The agent keeps running until everything is configured, and is then restarted."""
    main = "systemctl show -P MainPID pgpool2-cluster"
    before = pg1.run(main)
    packages = (POSTGRESQL, "pgpool2-cluster", "pgpool2")
    no_other_node_took_over(cluster, pg3, pg3, "together", lambda: upgrade(pg1, *packages))
    assert pg1.run(main) != before


@pytest.mark.thorough
def test_4_pgpool_is_upgraded_where_it_leads(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    names = leaders(cluster.status())
    assert len(names) == 1
    (leader,) = (host for host in cluster.hosts if host.name in names)
    through = next(host for host in (pg3, pg1) if host != leader)
    no_other_node_took_over(cluster, through, through, "leader", lambda: upgrade(leader, "pgpool2"))


@pytest.mark.thorough
@pytest.mark.parametrize("upgraded", [(POSTGRESQL,), ("pgpool2",), (POSTGRESQL, "pgpool2", "pgpool2-cluster")],
                         ids=["PostgreSQL", "pgpool-II", "all"])  # fmt: skip
def test_5_all_nodes_are_upgraded_at_once(cluster: Cluster, pg3: Host, upgraded: tuple[str, ...]) -> None:
    """As with unattended-upgrades, no command is needed afterwards."""
    name = f"{len(upgraded)} {upgraded[0]}".partition("$")[0]
    no_other_node_took_over(cluster, pg3, pg3, name,
                     lambda: together(lambda host: upgrade(host, *upgraded), cluster.hosts))  # fmt: skip


@pytest.mark.thorough
def test_6_a_primary_stopped_by_an_administrator_is_replaced(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    """An upgrade of another package does not delay that."""
    pg1.run("systemctl stop 'postgresql@*'")
    cluster.until(lambda status: any(node.role == "primary" and node.name != "pg1" for node in status.nodes.values()),
                  "another one is the primary", 60, pg2)  # fmt: skip
    pg1.run("systemctl start postgresql")
    cluster.wait_healthy(120)
