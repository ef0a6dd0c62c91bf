"""Native replication and snapshot isolation: every node is a primary, and a broken one is rebuilt in two stages."""

from __future__ import annotations

import pytest
from tests.cluster.cluster import DATA, Cluster
from tests.cluster.load import ledger, pgbench
from tests.cluster.native import PCP_RECOVERY, STOP, equal, given_up
from tests.cluster.watchdog import leaders
from tests.host import Host

MIXED = "-c 2 -j 2 -C -b simple-update@1 -b select-only@2"


@pytest.mark.smoke
def test_1_the_same_answers_give_three_primaries(native: Cluster) -> None:
    status = native.status()
    assert status.mode == native.mode
    assert [node.role for node in status.nodes.values()] == ["main", "replica", "replica"]
    equal(native)


@pytest.mark.smoke
def test_2_every_write_goes_to_every_node_through_every_pgpool(native: Cluster) -> None:
    for number, host in enumerate(native.hosts):
        native.ask(f"INSERT INTO numbered (word) VALUES ('{host}')", at=host)  # noqa: S608
        native.ask(f"INSERT INTO ledger VALUES ('here', {number})", at=host)  # noqa: S608
    equal(native)
    assert native.hosts[2].psql("SELECT count(*) FROM numbered", database="app") == "3"


def test_3_a_node_is_rebuilt_while_clients_write(native: Cluster, recovery: int) -> None:
    """A different node each time gets a new disk while two sessions write and read, and a third keeps the account."""
    target = native.hosts[-1 - recovery % 3]
    at, through = native.others(target)
    target.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
    given_up(native, target.name)
    writing = ledger(native, at=at, through=through, name=f"recovery {recovery}")
    with writing as written, pgbench(at, at, MIXED, "app"):
        said = at.run(f"pgpoolctl recover {target}", seconds=200)
    assert "100 %" in said
    assert written.lost(target) == set()
    print(f"{native.mode}, {target}: no write acknowledged for {written.longest_gap:.1f} s")
    equal(native)


@pytest.mark.smoke
def test_4_plain_pcp_recovery_node_does_it_too(native: Cluster) -> None:
    pg1, _, pg3 = native.hosts
    pg3.run(STOP)
    given_up(native, "pg3")
    native.ask("INSERT INTO numbered (word) VALUES ('while pg3 is away')", at=pg1)
    leader = native.named(leaders(native.status())[0])
    leader.run(f"{PCP_RECOVERY} -n 2", seconds=200)
    equal(native)


def test_5_a_node_that_missed_writes_stays_detached_and_says_so(native: Cluster) -> None:
    pg1, _, pg3 = native.hosts
    pg3.kill()
    given_up(native, "pg3")
    native.ask("INSERT INTO numbered (word) VALUES ('while pg3 is dead')", at=pg1)
    pg3.container.start()
    pg3.booted()
    pg1.until("pgpoolctl status | grep -q 'pgpoolctl recover pg3'", 60)
    assert native.status().nodes["pg3"].pgpool == "down"
    pg1.run("pgpoolctl recover pg3", seconds=200)
    equal(native)


@pytest.mark.thorough
def test_6_all_hosts_restarted_in_order(native: Cluster) -> None:
    for host in native.hosts:
        host.run("systemctl stop pgpool2")
    reboot(native.hosts)
    equal(native)


def reboot(hosts: tuple[Host, ...]) -> None:
    for host in hosts:
        host.container.stop(timeout=60)
    for host in hosts:
        host.container.start()
    for host in hosts:
        host.booted()
