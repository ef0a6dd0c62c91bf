"""Online recovery: one command brings a node back after any fault while clients keep writing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import DATA, PCP, Cluster
from tests.cluster.load import pgbench
from tests.host import Host, together

STOP = "systemctl stop 'postgresql@*'"
SCALE = 10


@pytest.fixture(scope="module", autouse=True)
def data(cluster: Cluster, pg1: Host) -> None:
    """A database of some size, partly in a tablespace."""
    together(lambda host: host.run("install -d -o postgres -g postgres -m 700 /srv/space"), cluster.hosts)
    pg1.psql("CREATE DATABASE bench OWNER app;\nCREATE TABLESPACE space LOCATION '/srv/space';\n"
             "GRANT CREATE ON TABLESPACE space TO app;")  # fmt: skip
    cluster.replayed()  # pgpool-II opens a session on all nodes, so all of them need the database
    pg1.run(f"pgbench -i -q -s {SCALE} -h {pg1.address} -p 9999 -U app bench")
    cluster.ask("CREATE TABLE elsewhere TABLESPACE space AS SELECT generate_series(1, 100000) AS number",
                at=pg1, database="bench")  # fmt: skip


@pytest.fixture(autouse=True)
def equal_afterwards(cluster: Cluster, pg1: Host) -> Iterator[None]:
    """After every recovery the cluster is healthy, its primary is the same, and all rows are equal on all nodes."""
    yield
    cluster.wait_healthy()
    assert cluster.writable() == ["pg1"]
    assert len(set(cluster.checksums("bench").values())) == 1
    assert len(set(cluster.checksums().values())) == 1


def given_up(cluster: Cluster, name: str) -> None:
    cluster.until(lambda status: status.nodes[name].pgpool == "down", f"pgpool-II gives {name} up", 60)


def test_a_stopped_node_is_started_and_catches_up(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    pg2.run(STOP)
    given_up(cluster, "pg2")
    cluster.ask("INSERT INTO elsewhere VALUES (0)", at=pg1, database="bench")
    assert "%" not in pg1.run("pgpoolctl recover pg2", seconds=120), "it was copied although it needed not be"


def test_a_server_that_is_still_starting_for_systemd_is_stopped_at_once(pg2: Host) -> None:
    """It serves sessions while pg_ctlcluster still watches it; the stop does not wait for the sessions to end."""
    pg2.run(STOP)
    pg2.run("systemctl start --no-block postgresql")
    session = "runuser -u postgres -- psql -Xc 'SELECT pg_sleep(60)'"
    pg2.until("runuser -u postgres -- psql -Xc 'SELECT 1'", 30)
    pg2.run(f"systemd-run -q --unit=session --collect {session}; systemctl is-active postgresql@* | grep activating")
    pg2.run(f"timeout 20 {STOP}")
    pg2.run("systemctl start postgresql")


def test_a_node_is_recovered_under_writes_without_a_failed_transaction(
    cluster: Cluster, pg1: Host, pg2: Host, pg3: Host
) -> None:
    """After a disk replacement, data directory and tablespace are gone; no client has a failed transaction."""
    pg2.run(f"{STOP}; find {DATA} /srv/space -mindepth 1 -delete")
    given_up(cluster, "pg2")
    with (
        pgbench(pg3, pg1, "-c 4 -j 2") as steady,
        pgbench(pg3, pg3, "-c 1 -C -N") as coming_and_going,
    ):
        said = pg1.run("pgpoolctl recover pg2", seconds=200)
    for clients in (steady, coming_and_going):
        assert (clients.status, clients.failed) == (0, 0), clients.output
        assert clients.transactions > 10
    assert "100 %" in said or "100%" in said, said
    pg2.until("systemctl is-active 'postgresql@*'", 30)
    assert pg2.run("stat -c '%a %U' /srv/space") == "700 postgres"


@pytest.mark.parametrize("how", ["automatic", "manual"])
def test_a_node_that_has_diverged_comes_back(cluster: Cluster, pg1: Host, pg3: Host, how: str) -> None:
    """An administrator promoted it by hand and wrote to it, and the cluster has stopped it."""
    pg3.run("rm -rf /var/lib/pgpool2-cluster/diverged")
    with cluster.returning(how):
        # In one session: the agent stops the server about two seconds after the promotion.
        sql = ("SELECT pg_promote()", "CREATE TABLE astray (x int)", "CHECKPOINT")
        pg3.attempt("runuser -u postgres -- psql " + " ".join(f"-c '{one}'" for one in sql))
        if how == "manual":
            pg3.until("! runuser -u postgres -- psql -c 'SELECT 1'", 60)
            assert cluster.writable() == ["pg1"]
            given_up(cluster, "pg3")
            cluster.ask("INSERT INTO elsewhere VALUES (0)", at=pg1, database="bench")
            pg3.run("pgpoolctl recover pg3", seconds=200)
        pg3.until('runuser -u postgres -- psql -XAtc "SELECT pg_is_in_recovery()" | grep t', 90)
    assert pg3.psql("SELECT to_regclass('astray') IS NULL") == "t"
    assert " committed " in pg3.run("cat /var/lib/pgpool2-cluster/diverged/*/transactions.txt")


def test_plain_pcp_recovery_node_does_the_same(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    pg3.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
    given_up(cluster, "pg3")
    # It learns from the leader, a second later. The third field is pgpool-II's own state; the sixth, the server's, is
    # "down" at once.
    pg1.until(f"test \"$({PCP.format('pcp_node_info')} -n 2 | cut -d' ' -f3)\" = 3", 20)
    said = pg1.run(f"{PCP.format('pcp_recovery_node')} -n 2", seconds=200)
    assert "Command Successful" in said, said
    pg3.until("systemctl is-active 'postgresql@*'", 30)


def test_a_failed_recovery_says_why_and_can_be_repeated(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    """An incomplete copy is never started, not even by a reboot."""
    pg2.run(f"{STOP}; find {DATA} /srv/space -mindepth 1 -delete")
    given_up(cluster, "pg2")
    pg1.run("systemd-run -q --unit=recover -p RemainAfterExit=yes sh -c 'pgpoolctl recover pg2 >/root/said 2>&1'")
    pg2.signal("KILL", "pg_basebackup", once="ls /srv/space/PG_*")
    pg1.until("! systemctl show -P SubState recover | grep -q running", 60)
    assert pg1.run("systemctl show -P ExecMainStatus recover") != "0"
    pg1.run("systemctl stop recover || :; systemctl reset-failed")
    lines = pg1.run("cat /root/said").splitlines()
    assert lines[-1].startswith("hint: "), lines
    assert "Traceback" not in "\n".join(lines)
    pg2.reboot()
    assert cluster.writable() == ["pg1"]
    assert pg2.attempt("runuser -u postgres -- psql -c 'SELECT 1'").status != 0, "half a copy was started"
    answer = pg1.attempt("pgpoolctl recover pg2", seconds=200)
    assert answer.status == 0 or "needs no recovery" in answer.output, answer.output  # the copy may resume after a boot
    cluster.wait_healthy()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "log", ["", "logging_collector = on\nlog_destination = 'csvlog'\n", "log_destination = 'syslog'\n"]
)
def test_a_repeatedly_failing_copy_is_reported_with_the_servers_reason(pg1: Host, pg2: Host, log: str) -> None:
    conf = "/etc/postgresql/*/main/conf.d/zz-broken.conf"
    folder = pg2.run("dirname /etc/postgresql/*/main/postgresql.conf")
    pg2.put(f"{folder}/conf.d/zz-broken.conf", f"{log}shared_preload_libraries = 'nothing_there'\n")
    assert pg1.attempt("pgpoolctl recover --force pg2", seconds=200).status == 1
    try:
        pg1.until("pgpoolctl status | grep -q 'copies of pg1 have failed for the same reason'", 120)
        assert 'could not access file "nothing_there"' in pg1.attempt("pgpoolctl status").output
    finally:
        pg2.run(f"rm {conf}; pgpoolctl converge --once", seconds=200)


def test_a_copy_that_would_lack_a_locale_is_refused(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    pg1.psql("CREATE DATABASE elsewhere;\nUPDATE pg_database SET datcollate = 'xx_YY.UTF-8', datctype = 'xx_YY.UTF-8' "
             "WHERE datname = 'elsewhere'")  # fmt: skip
    try:
        answer = pg1.attempt("pgpoolctl recover --force pg2", seconds=100)
        assert answer.status == 1
        reason, hint = answer.output.splitlines()[-2:]
        assert "this machine has no locale xx_YY.UTF-8" in reason
        assert "locale-gen" in hint
        pg2.psql("SELECT 1")  # it has been neither stopped nor emptied
    finally:
        pg1.psql("DROP DATABASE elsewhere")
    pg1.run("pgpoolctl attach pg2 || :")


REFUSALS = {"pg1": "primary", "pg9": "pg9", "'$(touch /run/owned)'": "no node"}


def test_recover_refuses_requests_that_lose_data_or_make_no_sense(pg1: Host, pg2: Host) -> None:
    for at in (pg1, pg2):
        for name, because in REFUSALS.items():
            answer = at.attempt(f"pgpoolctl recover {name}")
            assert answer.status in (1, 2), answer.output
            reason, hint = answer.output.splitlines()[-2:]
            assert because in reason
            assert hint.startswith("hint: ")
        at.run("[ ! -e /run/owned ]")


def test_recover_refuses_the_last_good_node(cluster: Cluster, pg1: Host, pg2: Host, pg3: Host) -> None:
    for host in (pg2, pg3):
        host.run(STOP)
        given_up(cluster, host.name)
    assert pg1.attempt("pgpoolctl recover pg1").status == 1
    assert cluster.writable() == ["pg1"]
    for name in ("pg2", "pg3"):
        pg1.run(f"pgpoolctl recover {name}", seconds=120)
