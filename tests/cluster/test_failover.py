"""A cluster loses its primary, as one story in order, with all the traps that others fell into.

With `return: manual`, the former primary stays down for as long as the traps need it. test_return.py has the default.
"""

from __future__ import annotations

import re
import time

import pytest
from tests.cluster.cluster import Cluster, through_pgpool
from tests.cluster.load import Ledger, ledger
from tests.cluster.watchdog import leaders
from tests.host import Host

FAILOVER_SECONDS = 60.0
IDLE = "nothing to do on this node"
"""An agent logs this in a healthy cluster."""
PROMOTION = re.compile(r"^(failover: )?promote pg[12] term [0-9]+$", re.MULTILINE)
"""An agent logs this before it promotes a standby, also at the request of pgpool-II."""
IN_FLIGHT = r"""
(
    echo "BEGIN; INSERT INTO ledger VALUES ('in flight', 1);"
    while :; do echo 'SELECT count(*) FROM ledger;'; sleep 0.5; done
) | {psql}
"""


@pytest.fixture(scope="module")
def started(cluster: Cluster, pg2: Host) -> str:
    """The start time of pg2's server before the story. pg3 is down after it, so no other module uses this cluster."""
    cluster.set_return("manual")
    return pg2.psql("SELECT pg_postmaster_start_time()")


def test_1_a_planned_restart_of_the_primary_is_no_failover(cluster: Cluster, pg1: Host, started: str) -> None:
    assert started
    timeline = cluster.status().nodes["pg1"].timeline
    pg1.run("systemctl restart postgresql")
    cluster.wait_healthy(60)
    time.sleep(10)
    status = cluster.status()
    assert status.healthy
    assert (status.nodes["pg1"].role, status.nodes["pg1"].timeline) == ("primary", timeline)
    assert cluster.writable() == ["pg1"]


def test_2_a_lost_session_is_no_failover(cluster: Cluster, pg1: Host) -> None:
    """Nor does a client's pg_terminate_backend cause one, as it did with unpatched pgpool-II."""
    pg1.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'app'")
    time.sleep(5)
    cluster.wait_healthy(30)
    assert cluster.writable() == ["pg1"]


def lose_while_one_lags(cluster: Cluster, primary: Host, lagging: Host, ahead: Host, table: str) -> None:
    """Cut the power of the primary when only `ahead` has the last writes, and wait for a new primary.

    No pgpool-II may lose a vote. That used to happen nearly always if the primary's pgpool-II led, which is printed.
    """
    lagging.signal("STOP", "walreceiver")
    rows = "SELECT repeat(md5(x::text), 30) AS t FROM generate_series(1, 60000) x"
    primary.psql(f"CREATE TABLE {table} AS {rows}")
    print("leader:", leaders(cluster.status()), "primary:", primary)
    began = int(time.time())
    primary.kill()
    lagging.signal("CONT", "walreceiver")
    cluster.until(lambda status: status.has_primary, "there is a primary again", FAILOVER_SECONDS, ahead)
    for host in (lagging, ahead):
        journal = host.run(f"journalctl -u pgpool2 --since=@{began}")
        assert not re.search("is canceled by other pgpool|is changed to quarantine", journal), host


@pytest.fixture(scope="module")
def account(cluster: Cluster, pg1: Host, pg2: Host, pg3: Host, started: str) -> Ledger:
    """Cut the power of the primary while pg2, the standby with the lower id, lags behind and clients write."""
    assert started
    with ledger(cluster, at=pg3, through=pg3, name="survivor") as written:
        command = IN_FLIGHT.format(psql=through_pgpool(pg2, pg2, "").partition("<<")[0])
        pg2.put("/root/in-flight.sh", command)
        pg2.run("systemd-run -q --unit=in-flight -E HOME=/root -p RemainAfterExit=yes -p IgnoreSIGPIPE=no "
                "sh /root/in-flight.sh")  # fmt: skip
        lose_while_one_lags(cluster, pg1, pg2, pg3, table="gap")
        time.sleep(10)
    return written


def test_3_the_most_advanced_standby_takes_over_not_the_lowest_id(cluster: Cluster, account: Ledger, pg3: Host) -> None:
    assert account.acknowledged
    assert cluster.primary(pg3) == pg3
    assert cluster.writable(*cluster.hosts[1:]) == ["pg3"]


def test_4_no_acknowledged_row_is_lost_and_writes_continue(account: Ledger, pg3: Host) -> None:
    print(f"the longest time without an acknowledged write: {account.longest_gap:.1f} s")
    assert account.lost(pg3) == set()
    assert account.longest_gap < FAILOVER_SECONDS, account.errors
    assert pg3.psql("SELECT count(*) FROM gap") == "60000"


def test_5_the_sibling_follows_without_a_restart(
    cluster: Cluster, account: Ledger, pg2: Host, pg3: Host, started: str
) -> None:
    assert account.acknowledged
    cluster.until(lambda status: status.nodes["pg2"].pgpool == "up" and status.nodes["pg2"].role == "standby",
                  "pg2 is a standby in use", 60, pg3)  # fmt: skip
    position = pg3.psql("SELECT pg_current_wal_lsn()")
    pg2.until(f"runuser -u postgres -- psql -XAtqc \"SELECT pg_last_wal_replay_lsn() >= '{position}'\" | grep t", 30)
    assert pg2.psql("SELECT pg_postmaster_start_time()") == started


def test_6_no_session_in_flight_hangs(account: Ledger, pg2: Host) -> None:
    assert account.acknowledged
    pg2.until("systemctl show -P SubState in-flight | grep -qE 'exited|failed|dead'", 30)


def test_7_the_former_primary_boots_and_is_never_writable(cluster: Cluster, account: Ledger, pg1: Host) -> None:
    assert account.acknowledged
    pg1.container.start()
    seen = set()
    end = time.monotonic() + 45
    while time.monotonic() < end:
        seen.update(cluster.writable())
    assert seen == {"pg3"}
    pg1.booted()


def test_8_a_lost_pgpool_status_never_makes_it_the_primary(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    for host in cluster.hosts:
        host.run("systemctl stop pgpool2; rm /var/lib/pgpool2-cluster/pgpool_status")
    for host in (pg1, *cluster.others(pg1)):
        host.run("systemctl start pgpool2 || :")
    cluster.until(lambda status: status.nodes["pg3"].role == "primary" and status.nodes["pg3"].pgpool == "up",
                  "pg3 is the primary", 60, pg3)  # fmt: skip
    for host in cluster.others(pg1):
        cluster.until(lambda status: status.nodes["pg1"].pgpool == "down", "pg1 is given up", 30, host)
    pg3.until(through_pgpool(pg3, pg3, "CREATE TABLE IF NOT EXISTS after_loss (number int)"), 60)
    for number in range(3):
        for host in cluster.others(pg1):
            cluster.ask(f"INSERT INTO after_loss VALUES ({number})", at=host)  # noqa: S608
    assert pg3.psql("SELECT count(*) FROM after_loss", database="app") == "6"
    assert cluster.writable() == ["pg3"]


def test_9_the_former_primary_waits_for_recover_and_says_so(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    status = cluster.status(pg3)
    assert not status.healthy
    assert status.nodes["pg1"].pgpool == "down"
    for host in (pg1, pg3):
        assert "pgpoolctl recover pg1" in host.attempt("pgpoolctl status").output, host
    pg1.run("pgpoolctl recover pg1", seconds=200)
    cluster.wait_healthy()
    assert cluster.primary() == pg3
    assert len(set(cluster.checksums().values())) == 1


def test_10_soon_after_it_is_the_most_advanced_again(cluster: Cluster, pg1: Host, pg2: Host, pg3: Host) -> None:
    """pg2 follows the new primary but has had no restartpoint since; the rewound pg1 is now the one that lags."""
    with ledger(cluster, at=pg2, through=pg2, name="second") as account:
        lose_while_one_lags(cluster, pg3, pg1, pg2, table="second_gap")
        time.sleep(5)
    assert cluster.primary(pg2) == pg2
    assert account.acknowledged
    assert account.lost(pg2) == set()
    assert pg2.psql("SELECT count(*) FROM second_gap") == "60000"
    cluster.until(lambda status: status.nodes["pg1"].pgpool == "up" and status.nodes["pg1"].role == "standby",
                  "pg1 is a standby in use", 60, pg2)  # fmt: skip


def test_11_warnings_of_the_agents_are_found_by_their_priority(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    """`journalctl -p warning -u pgpool2-cluster` shows the warnings and nothing else."""
    own = "journalctl -b -q -o cat _SYSTEMD_UNIT=pgpool2-cluster.service"
    warnings = [host.run(f"{own} -p warning") for host in (pg1, pg2)]
    rest = [host.run(f"{own} -p notice..info") for host in (pg1, pg2)]
    assert any(PROMOTION.search(text) for text in warnings)
    assert all(IDLE in text and not PROMOTION.search(text) for text in rest)
    assert not any(IDLE in text or "<" in text[:1] for text in warnings)
