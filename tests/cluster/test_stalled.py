"""Connected standbys that make no progress get no reads, `status` reports that, and the cluster recovers by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cluster.cluster import Cluster, Status
from tests.host import Host, together

YML = "/etc/pgpool2/cluster.yml"
SESSIONS = 24
"""Number of reads, each in its own session, so that pgpool-II selects a node each time."""
OUT_SECONDS = 10.0
"""How soon a standby that reports paused replay gets no reads any more."""
STUCK_SECONDS = 45.0
"""The same if only time can tell: 10 or 15 s, plus two rounds of the agent."""


def out(status: Status) -> bool:
    """Return whether pg2 gets no reads, and `status` reports an unhealthy cluster."""
    return status.nodes["pg2"].pgpool == "down" and not status.healthy


def reads(cluster: Cluster, at: Host, table: str) -> list[str]:
    """Return what this number of new sessions reads from a table with one row."""
    return [cluster.ask(f"SELECT count(*) FROM {table}", at=at) for _ in range(SESSIONS)]  # noqa: S608


def reads_are_right(cluster: Cluster, primary: Host, table: str) -> None:
    """A table that was just created is visible in all sessions, despite pg2."""
    cluster.ask(f"CREATE TABLE {table} AS SELECT 1 AS number", at=primary)
    time.sleep(3)
    assert set(reads(cluster, primary, table)) == {"1"}


def well_again(cluster: Cluster) -> None:
    cluster.wait_healthy(90)
    assert set(together(lambda host: cluster.status(host).nodes["pg2"].pgpool, cluster.hosts)) == {"up"}
    assert len(set(cluster.checksums().values())) == 1


@pytest.mark.smoke
def test_paused_replay_is_not_healthy_and_gets_no_reads_until_it_resumes(
    cluster: Cluster, pg1: Host, pg2: Host
) -> None:
    pg2.psql("SELECT pg_wal_replay_pause()")
    status = cluster.until(out, "pg2 takes no reads", OUT_SECONDS, pg1)
    assert "pg_wal_replay_resume" in status.text
    reads_are_right(cluster, pg1, "while_paused")
    answer = pg1.attempt("pgpoolctl attach pg2")
    assert (answer.status, "its replay is paused" in answer.output) == (1, True), answer.output
    assert "FAIL  pg2: it replays what it receives" in pg1.attempt("pgpoolctl check", seconds=90).output
    pg2.psql("SELECT pg_wal_replay_resume()")
    well_again(cluster)


@pytest.mark.thorough
@pytest.mark.parametrize("process", ["walreceiver", "startup"])
def test_a_standby_with_a_stuck_process_gets_no_reads(cluster: Cluster, pg1: Host, pg2: Host, process: str) -> None:
    """A walreceiver reports `streaming` for ever if it, or the startup process, is stopped."""
    pg2.signal("STOP", process)
    try:
        pg1.psql(f"CREATE TABLE stuck_{process} (number int)")
        cluster.until(out, "pg2 takes no reads", STUCK_SECONDS, pg1)
        reads_are_right(cluster, pg1, f"while_{process}_is_stuck")
    finally:
        pg2.signal("CONT", process)
    well_again(cluster)


@pytest.mark.thorough
def test_a_query_that_delays_replay_within_postgresqls_limit_is_not_cancelled(
    cluster: Cluster, pg1: Host, pg2: Host
) -> None:
    """max_standby_streaming_delay is the time that an administrator allows for a report."""
    pg1.psql("CREATE TABLE reported (number int)")
    cluster.replayed()
    report = "BEGIN; SELECT count(*) FROM reported; SELECT pg_sleep(20); COMMIT"
    pg2.run(f"systemd-run -q --unit=report -p RemainAfterExit=yes -p User=postgres psql -XAtq -c '{report}'")
    pg2.until(
        "runuser -u postgres -- psql -XAtqc \"SELECT 1 FROM pg_stat_activity WHERE query ~ 'pg_slee[p]'\" | grep 1", 5
    )
    pg1.psql("DROP TABLE reported")
    end = time.monotonic() + 16
    while time.monotonic() < end:
        assert cluster.status(pg1).nodes["pg2"].pgpool == "up"
        time.sleep(1)
    pg2.until("[ $(systemctl show -P SubState report) = exited ]", 30)
    well_again(cluster)


# A switchover in the middle of a change of max_connections


@contextmanager
def connections(cluster: Cluster, change: int) -> Iterator[int]:
    """Change max_connections temporarily in cluster.yml on all nodes, without an apply or a restart."""
    now = int(cluster.hosts[0].psql("SHOW max_connections"))
    line = f"postgresql_conf: {{max_connections: {now + change}}}"
    together(lambda host: host.run(f"cp -p {YML} /root/{YML.rpartition('/')[2]}; echo '{line}' >>{YML}"), cluster.hosts)
    try:
        yield now + change
    finally:
        together(lambda host: host.run(f"cp -p /root/cluster.yml {YML}; pgpoolctl apply"), cluster.hosts)
        primary = cluster.primary()
        for host in (primary, *cluster.others(primary)) if change > 0 else (*cluster.others(primary), primary):
            restarted(cluster, host)
        cluster.wait_healthy(120)


def restarted(cluster: Cluster, host: Host) -> None:
    host.run("systemctl restart postgresql")
    cluster.until(lambda status: status.nodes[host.name].postgresql == "up", f"{host} is up", 60, host)


@pytest.mark.thorough
def test_a_switchover_in_the_middle_of_a_change_of_max_connections(
    cluster: Cluster, pg1: Host, pg2: Host, pg3: Host
) -> None:
    with connections(cluster, 50) as wanted:
        said = pg2.run("pgpoolctl apply")
        assert "max_connections grows: the standbys first, then the primary" in said
        restarted(cluster, pg2)
        cluster.wait_healthy(60)
        refused = pg1.attempt("pgpoolctl switchover pg2", seconds=120)
        assert refused.status == 1, refused.output
        assert f"pg3 has max_connections = {wanted - 50}, and pg2 runs with {wanted}" in refused.output
        assert f"postgresql_conf: {{max_connections: {wanted}}}" in refused.output
        assert cluster.primary() == pg1
        pg3.run("pgpoolctl apply")
        restarted(cluster, pg3)
        refused = pg1.attempt("pgpoolctl switchover pg2", seconds=120)
        assert "pg1 would start with max_connections" in refused.output
        cluster.wait_healthy(30)
        pg1.run("pgpoolctl apply")
        pg1.run("pgpoolctl switchover pg2", seconds=120)
        cluster.wait_healthy(90)
        reads_are_right(cluster, pg2, "after_the_change")
        pg1.run("pgpoolctl switchover pg1", seconds=120)
        cluster.wait_healthy(90)


@pytest.mark.thorough
def test_a_primary_restarted_too_early_causes_no_wrong_reads(cluster: Cluster, pg1: Host, pg2: Host, pg3: Host) -> None:
    with connections(cluster, 50) as wanted:
        pg1.run("pgpoolctl apply")
        restarted(cluster, pg1)
        low = f"max_connections is {wanted - 50} on pg2, and {wanted} is needed"
        status = cluster.until(lambda status: low in status.text and out(status), "pg2 says why", 60, pg1)
        assert "systemctl restart postgresql" in status.text
        reads_are_right(cluster, pg1, "too_early")
        for host in (pg2, pg3):
            host.run("pgpoolctl apply")
            restarted(cluster, host)
        well_again(cluster)
