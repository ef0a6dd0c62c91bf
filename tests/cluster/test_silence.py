"""The agents notice lost nodes themselves, replace them within seconds, and fence a node that has lost the others."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.cluster import faults
from tests.cluster.cluster import Cluster, through_pgpool
from tests.cluster.load import ledger
from tests.host import Host, together

from pgpool_cluster.decision.liveness.silence import BOOT_SECONDS

UDP_CUT = """
nft -f - <<'NFT'
table inet beats {
    chain input { type filter hook input priority -300; udp dport 9695 drop; }
}
NFT
"""
UDP_MENDED = "nft delete table inet beats"
QUIET_SECONDS = 8.0
"""Longer than any deadline after which a node is given up or fenced."""
FENCED_SECONDS = 8.0
"""By then, a primary that is cut off takes no more writes on a busy machine; an idle one takes 3 s."""
FAILOVER_SECONDS = 15.0
"""Clients may be without a write for this long on a busy machine; `bench failover` measures the time itself."""
ALIVE = "pgrep -u postgres -x postgres >/dev/null"


def agents_since(cluster: Cluster, began: float) -> str:
    since = f"--since=@{int(began)}"
    return "".join(host.run(f"journalctl -q -o cat -u pgpool2-cluster {since}") for host in cluster.hosts)


@pytest.fixture
def unchanged(cluster: Cluster) -> Iterator[None]:
    """A healthy cluster whose primary stays where it is."""
    cluster.wait_healthy()
    primary = cluster.primary()
    now = time.time()
    yield
    assert cluster.primary() == primary
    assert cluster.writable() == [primary.name]
    assert "promote" not in agents_since(cluster, now)


# No sign of a failure


@pytest.mark.usefixtures("unchanged")
def test_1_heartbeats_that_a_packet_filter_drops_are_no_failure(cluster: Cluster, pg1: Host) -> None:
    pg1.run(UDP_CUT)
    try:
        time.sleep(QUIET_SECONDS)
        assert all(node.pgpool == "up" for node in cluster.status().nodes.values())
    finally:
        pg1.run(UDP_MENDED)


@pytest.mark.usefixtures("unchanged")
def test_2_an_agent_that_is_killed_is_no_failure(cluster: Cluster, pg1: Host) -> None:
    pg1.run("systemctl kill -s KILL pgpool2-cluster")
    time.sleep(QUIET_SECONDS)
    assert all(node.pgpool == "up" for node in cluster.status().nodes.values())


@pytest.mark.usefixtures("unchanged")
def test_3_an_agent_that_is_stopped_for_a_while_is_no_failure(pg1: Host) -> None:
    pg1.run("systemctl kill -s STOP pgpool2-cluster; sleep 4; systemctl kill -s CONT pgpool2-cluster")
    time.sleep(QUIET_SECONDS)


# A primary that is cut off


def test_4_a_primary_that_is_cut_off_is_fenced_before_another_serves_for_long(
    cluster: Cluster, pg1: Host, pg2: Host
) -> None:
    cluster.wait_healthy()
    assert cluster.primary() == pg1
    cluster.ask("CREATE TABLE cut (number int)", at=pg1)
    began = time.monotonic()
    faults.CUT_OFF.begin(cluster, pg1)
    try:
        while pg1.attempt(ALIVE).status == 0 or pg1.attempt(through_pgpool(pg1, pg1, "SELECT 1")).status == 0:
            assert time.monotonic() - began < 20, "it is still being served"
        fenced = time.monotonic() - began
        cluster.until(lambda status: status.has_primary, "a primary", 10, pg2)
        replaced = time.monotonic() - began
        print(f"fenced after {fenced:.1f} s, replaced after {replaced:.1f} s")
        assert fenced < FENCED_SECONDS
        assert cluster.writable(*cluster.others(pg1)) == [cluster.primary(pg2).name]
        assert "it has no contact to more than half of the nodes" in pg1.attempt("pgpoolctl status").output + pg1.run(
            "journalctl -q -o cat -u pgpool2-cluster -p warning"
        )
    finally:
        faults.CUT_OFF.end(cluster, pg1)


def test_5_it_never_serves_again_by_itself_once_another_was_promoted(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        assert cluster.writable() == [cluster.primary(pg2).name]
    pg1.attempt("pgpoolctl recover pg1", seconds=200)
    cluster.wait_healthy()


# A lost host


def test_6_a_silent_primary_is_replaced_within_seconds(cluster: Cluster) -> None:
    """No connection to it is closed. test_failover.py and test_return.py kill the host, which closes them."""
    fault = faults.HOST_SILENT
    cluster.wait_healthy()
    primary = cluster.primary()
    survivor, *_ = cluster.others(primary)
    with ledger(cluster, at=survivor, through=survivor, name=fault.name) as account:
        time.sleep(2)
        fault.begin(cluster, primary)
        time.sleep(20)
    print(f"{fault.name}: the longest time without an acknowledged write: {account.longest_gap:.1f} s")
    assert account.lost(cluster.primary(survivor)) == set()
    assert account.longest_gap < FAILOVER_SECONDS, account.errors
    fault.end(cluster, primary)
    primary.booted()
    primary.attempt(f"pgpoolctl recover {primary.name}", seconds=200)
    cluster.wait_healthy()


def test_7_a_killed_postgresql_is_replaced_before_it_could_replay(cluster: Cluster) -> None:
    primary = cluster.primary()
    survivor, *_ = cluster.others(primary)
    with ledger(cluster, at=survivor, through=survivor, name="server") as account:
        time.sleep(2)
        faults.POSTGRESQL_KILLED.begin(cluster, primary)
        time.sleep(10)
    faults.POSTGRESQL_KILLED.end(cluster, primary)
    print(f"the longest time without an acknowledged write: {account.longest_gap:.1f} s")
    assert cluster.primary(survivor) != primary
    assert account.lost(cluster.primary(survivor)) == set()
    assert account.longest_gap < FAILOVER_SECONDS, account.errors
    primary.attempt(f"pgpoolctl recover {primary.name}", seconds=200)
    cluster.wait_healthy()


# An agent that is not there


@pytest.mark.parametrize(("signal", "seconds"), [("KILL", 15.0), ("STOP", 25.0)])
def test_8_a_primary_whose_agent_dies_or_hangs_is_fenced_by_the_next_one(
    cluster: Cluster, signal: str, seconds: float
) -> None:
    """The new agent starts while its node is cut off, and remembers that the others send heartbeats."""
    cluster.wait_healthy()
    primary = cluster.primary()
    survivor, *_ = cluster.others(primary)
    began = time.monotonic()
    faults.CUT_OFF.begin(cluster, primary)
    try:
        primary.run(f"systemctl kill -s {signal} --kill-whom=main pgpool2-cluster")
        while primary.attempt(ALIVE).status == 0:
            assert time.monotonic() - began < seconds, "it is still being served"
        print(f"SIG{signal} of its agent: fenced after {time.monotonic() - began:.1f} s")
        cluster.until(lambda status: status.has_primary, "a primary", 15, survivor)
    finally:
        faults.CUT_OFF.end(cluster, primary)
    primary.attempt(f"pgpoolctl recover {primary.name}", seconds=200)
    cluster.wait_healthy()


def test_9_after_a_power_failure_of_all_hosts_the_primarys_host_is_replaced_if_it_stays_away(cluster: Cluster) -> None:
    """Neither a heartbeat nor facts of it have arrived since the boot, and no pgpool-II runs that could give it up."""
    cluster.wait_healthy()
    primary = cluster.primary()
    others = cluster.others(primary)
    together(Host.kill, cluster.hosts)
    began = time.monotonic()
    together(Host.start, others)
    time.sleep(5)
    assert cluster.writable(*others) == [], "the primary's host may still be booting"
    cluster.until(lambda status: status.has_primary, "a primary", BOOT_SECONDS + 60, others[0])
    print(f"replaced {time.monotonic() - began:.0f} s after the power came back")
    primary.start()
    primary.attempt(f"pgpoolctl recover {primary.name}", seconds=200)
    cluster.wait_healthy()
    assert cluster.writable() == [cluster.primary().name]
