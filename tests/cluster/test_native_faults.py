"""Native replication: faults during a recovery."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from tests.cluster.cluster import DATA, Cluster, through_pgpool
from tests.cluster.load import ledger
from tests.cluster.native import PCP_RECOVERY, STOP, equal, given_up
from tests.cluster.watchdog import DEADTIME, leaders, led_by, led_elsewhere
from tests.host import Host, together

from pgpool_cluster.definition.cluster import DRAIN_SECONDS

ARCHIVE = "/var/lib/postgresql-archive"
KILL = "pkill -9 -u postgres -x postgres || :"
CUT = "ip link set eth0 down"
MEND = "ip link set eth0 up"
SLOWLY = "tc qdisc replace dev eth0 root tbf rate 20mbit burst 64k latency 50ms"
SAID = "journalctl -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID recovering)"
FILL = """
SELECT pg_logical_emit_message(true, 'fill', string_agg(md5(random()::text), '')), pg_switch_wal()
FROM generate_series(1, 300000)
"""


def stay(host: Host) -> None:
    """Keep a session through the host's pgpool-II open, for at most half a minute."""
    host.put("/root/stay.sh", "(sleep 30) | " + through_pgpool(host, host, "").partition("<<")[0])
    host.run("systemctl stop stay 2>/dev/null || :; systemd-run -q --unit=stay -E HOME=/root sh /root/stay.sh")


def begin(at: Host) -> None:
    """Start a recovery of pg3 as the unit `recovering`."""
    at.run("systemctl stop recovering 2>/dev/null || :; systemctl reset-failed recovering 2>/dev/null || :")
    at.run("systemd-run -q --unit=recovering -p RemainAfterExit=yes pgpoolctl recover pg3")


ACTIVITY = "runuser -u postgres -- psql -XAtqc \"SELECT query FROM pg_stat_activity WHERE state = 'active'\""


def in_background(host: Host, name: str, sql: str) -> None:
    """Run a statement through the host's pgpool-II as the unit `name`, and wait until its server executes it."""
    host.put(f"/root/{name}.sh", through_pgpool(host, host, sql))
    host.run(f"systemd-run -q --unit={name} -E HOME=/root -p RemainAfterExit=yes sh /root/{name}.sh")
    host.until(f"{ACTIVITY} | grep -qF '{sql}'", 20)


def ended(host: Host, name: str) -> int:
    """Wait until a unit has ended, and return its exit status."""
    host.until(f"systemctl show -P SubState {name} | grep -qE 'exited|failed|dead'", 60)
    return int(host.run(f"systemctl show -P ExecMainStatus {name}; systemctl stop {name} || :; systemctl reset-failed"))


@pytest.mark.thorough
def test_1_a_client_that_never_leaves_is_disconnected_and_logged(native: Cluster) -> None:
    """An idle session and one with an endless statement are both ended when their time is over."""
    pg1, _, pg3 = native.hosts
    pg3.run(STOP)
    given_up(native, "pg3")
    in_background(pg1, "lasting", "SELECT pg_sleep(3600)")
    pg1.run("pgpoolctl recover pg3", seconds=120)
    equal(native)
    assert ended(pg1, "lasting") != 0
    told = f"journalctl -u pgpool2-cluster --since=-3min | grep -q 'sessions did not end within {DRAIN_SECONDS} s'"
    assert any(host.attempt(told).status == 0 for host in native.hosts)


CANCEL = """
import sys, time
sys.path.insert(0, "/usr/share/pgpool2-cluster")
from pgpool_cluster.transport.channel import ask
from pgpool_cluster.transport.protocol import CancelActiveRequest
since, rounds = map(float, sys.argv[1:])
end = time.monotonic() + rounds
while time.monotonic() < end:
    ask(CancelActiveRequest(since), seconds=5)
"""


PLANNED_SLOWLY = """
CREATE FUNCTION planned() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN 1; END $$
"""


@pytest.mark.thorough
def test_1_the_same_statement_ends_in_the_same_way_on_all_nodes(native: Cluster) -> None:
    """After its cancellation on the main node it starts on the others; if cancelled there at once, they detach."""
    for host in native.hosts:
        host.put("/root/cancel.py", CANCEL)
    pg1 = native.hosts[0]
    native.ask(PLANNED_SLOWLY, at=pg1)
    in_background(pg1, "sleeping", "SELECT planned(), pg_sleep(3600)")
    time.sleep(1)
    together(lambda host: host.run(f"python3 /root/cancel.py 1e9 {0.1 if host == pg1 else 4}"), native.hosts)
    assert ended(pg1, "sleeping") != 0
    equal(native)
    native.ask("DROP FUNCTION planned()", at=pg1)


def test_1_a_statement_finished_on_the_main_node_may_finish_on_the_others(native: Cluster) -> None:
    """It takes ten seconds on the main node and as long on the others; the drain begins when the first is done."""
    pg1, pg2, pg3 = native.hosts
    native.ask("CREATE TABLE IF NOT EXISTS slow (number int)", at=pg1)
    pg3.run(STOP)
    given_up(native, "pg3")
    in_background(pg1, "writing", "INSERT INTO slow SELECT 1 FROM pg_sleep(10)")
    pg2.until(f"{ACTIVITY} | grep -q '^INSERT INTO slow'", 30)
    pg1.run("pgpoolctl recover pg3", seconds=120)
    assert ended(pg1, "writing") == 0
    equal(native)
    assert pg3.psql("SELECT count(*) FROM slow", database="app") == "1"
    native.ask("DROP TABLE slow", at=pg1)


OUT_OF_SIGHT = 30
"""Seconds until a main node is given up (three health checks) or a leading pgpool-II (its deadtime and a vote)."""
BRIEFLY = (("second", "the source dies"),)
FAULTS = {
    "the target dies": ("pg3", KILL, "", 5),
    "the source dies": ("pg1", KILL, "", 8),  # a connection attempt ends after its connect_timeout of 5 s
    "the network of the target drops": ("pg3", CUT, MEND, 5),
    "the network of the source drops": ("pg1", CUT, MEND, 5),
    "a pgpool-II is restarted": ("pg2", "systemctl restart pgpool2", "", OUT_OF_SIGHT),
}
STORIES = [
    pytest.param(stage, fault, marks=() if (stage, fault) in BRIEFLY else pytest.mark.thorough)
    for stage in ("first", "second")
    for fault in FAULTS
]


@pytest.mark.parametrize(("stage", "fault"), STORIES)
def test_2_whatever_breaks_clients_go_on_and_the_next_run_works(native: Cluster, stage: str, fault: str) -> None:
    """Clients write within seconds of the failure, no node with other data is attached, and the same command works.

    The first stage is slowed down; an open session prolongs the second.
    """
    pg1, pg2, pg3 = native.hosts
    name, breaks, mend, limit = FAULTS[fault]
    broken = native.named(name)
    if breaks == CUT:
        led_by(native, broken)  # a leader also has to be elected
    pg3.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
    given_up(native, pg3.name)
    with ledger(native, at=pg2, through=pg2, name=f"{stage} {fault}") as written:
        if stage == "first":
            pg1.run(SLOWLY)
        else:
            stay(pg2)
        begin(pg2)
        if stage == "first":
            pg3.until(f"[ -s {DATA}/PG_VERSION ]", 60)
        else:
            pg2.until(f"{SAID} | grep -q 'waiting for sessions to end'", 60)
            time.sleep(1)
        failed = time.time()
        broken.run(breaks)
        time.sleep(20)
        broken.run(mend)
        pg2.until("systemctl show -P SubState recovering | grep -qE 'exited|failed|dead'", 150)
    pg1.attempt("tc qdisc del dev eth0 root")
    said = pg2.run("journalctl -u recovering -o cat; systemctl stop recovering; systemctl reset-failed || :")
    pairs = itertools.pairwise([*written.acknowledged.values(), time.time()])
    released = max((later - max(earlier, failed) for earlier, later in pairs if later > failed), default=math.inf)
    print(f"{native.mode}, {stage} stage, {fault}: held for {released:.1f} s, longest gap {written.longest_gap:.1f} s")
    print(time.strftime("it broke at %H:%M:%S", time.gmtime(failed)))
    print(said.splitlines()[-2:])
    native.until(lambda status: len(leaders(status)) == 1, "one pgpool-II leads", 60, pg2)
    # A session or health check that hung since a cut may still detach a node when it ends.
    settled = time.monotonic() + (15 if mend else 0)
    while True:
        for host in native.hosts:
            host.until("systemctl is-active pgpool2-cluster", 60)
            if f"pgpoolctl recover {host}" in pg2.run("pgpoolctl status || :"):
                pg2.run(f"pgpoolctl recover {host}", seconds=200)
        if time.monotonic() > settled:
            break
        time.sleep(2)
    equal(native)
    assert written.lost(pg2) == set()
    assert released <= limit, written.errors


def test_3_clients_write_again_where_the_node_is_known_to_be_back(native: Cluster) -> None:
    """A pgpool-II with a slow main process holds its clients; otherwise the new node would miss their writes."""
    target = native.hosts[-1]
    late = next(host for host in native.others(target) if host.name not in leaders(native.status()))
    target.run(STOP)
    given_up(native, target.name)
    with ledger(native, at=late, through=late, name="late") as written:
        stay(late)
        begin(late)
        late.until(f"{SAID} | grep -q 'waiting for sessions to end'", 60)
        late.run("kill -STOP $(systemctl show -P MainPID pgpool2)")
        late.until("systemctl show -P SubState recovering | grep -qE 'exited|failed|dead'", 150)
        time.sleep(3)
        late.run("kill -CONT $(systemctl show -P MainPID pgpool2)")
        late.until("sleep 1; [ $(tail -n 1 /root/ledger.log | sed 's/.* //; s/[.].*//') -ge $(($(date +%s) - 1)) ]", 30)
    late.run("systemctl stop recovering; systemctl reset-failed || :")
    assert written.longest_gap > 3
    assert written.lost(target) == set()
    equal(native)


@pytest.mark.thorough
@pytest.mark.parametrize("moment", [0.2, 0.5, 0.8, 1.1])
def test_3_a_pgpool_that_starts_meanwhile_serves_once_it_knows_the_node(native: Cluster, moment: float) -> None:
    """It learns of the second stage before it joins the others; otherwise its clients would bypass the new node."""
    target = native.hosts[-1]
    late = next(host for host in native.others(target) if host.name not in leaders(native.status()))
    target.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
    given_up(native, target.name)
    with ledger(native, at=late, through=late, name=f"starting {moment}") as written:
        begin(late)
        late.until(f"{SAID} | grep -q 'copying'", 60)
        late.run(f"sleep {moment}; systemctl restart pgpool2")
        late.until("systemctl show -P SubState recovering | grep -qE 'exited|failed|dead'", 150)
        time.sleep(3)
    late.run("systemctl stop recovering; systemctl reset-failed || :")
    assert written.lost(target) == set()
    equal(native)


UNHEARD = """
nft -f - <<'END'
table inet unheard {
    chain out { type filter hook output priority 0; udp dport 9694 drop; }
}
END
"""
"""Blocks all heartbeats of the host: the others' lifechecks declare its pgpool-II lost although it serves."""
UNREACHED = f"""{UNHEARD}
nft add rule inet unheard out tcp dport 9000 tcp flags '&' '(syn|ack)' == syn drop
nft add chain inet unheard in '{{ type filter hook input priority 0; }}'
nft add rule inet unheard in tcp dport 9000 tcp flags '&' '(syn|ack)' == syn drop
"""
"""Keeps its watchdog from reconnecting after the others have hung up."""
HEARD = "nft delete table inet unheard"


@pytest.mark.thorough
@pytest.mark.parametrize("copying", [False, True])
def test_3_a_pgpool_that_is_taken_for_lost_is_waited_for(native: Cluster, copying: bool) -> None:
    """It does not learn of the second stage; its clients' writes used to be missing on the recovered node.

    It is lost before the recovery begins, or during the copy.
    """
    target = native.hosts[-1]
    (leader,) = (native.named(name) for name in leaders(native.status()))
    lost = next(host for host in native.others(target) if host != leader)
    target.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
    given_up(native, target.name)
    with ledger(native, at=lost, through=lost, name=f"lost, copying {copying}") as written:
        if copying:
            native.hosts[0].run(SLOWLY)
            begin(leader)
            target.until(f"[ -s {DATA}/PG_VERSION ]", 60)
        began = leader.run("date +%s")
        lost.run(UNREACHED)
        leader.until(f"journalctl -o cat -u pgpool2 --since=@{began} | grep 'remote node .*{lost.name}.* is lost'", 30)
        if copying:
            native.hosts[0].run("tc qdisc del dev eth0 root")
        else:
            begin(leader)
        leader.until(f"{SAID} | grep -qE 'has not joined|is recovered'", 60)
        time.sleep(3)
        lost.run(HEARD)
        leader.until("systemctl show -P SubState recovering | grep -qE 'exited|failed|dead'", 150)
        time.sleep(3)
    said = leader.run("journalctl -u recovering -o cat -n 20; systemctl stop recovering; systemctl reset-failed || :")
    assert written.lost(target) == set(), said
    assert f"pgpool-II of {lost} serves clients, but has not joined the others" in said
    assert "is recovered" in said
    equal(native)


@pytest.mark.thorough
@pytest.mark.parametrize("down", [DEADTIME - 4, DEADTIME + 2])
def test_3_a_pgpool_that_joins_has_the_whole_deadtime_for_its_first_heartbeat(native: Cluster, down: int) -> None:
    """It is not declared lost for heartbeats missing from its downtime, nor reported as found at the first one."""
    (leader,) = (native.named(name) for name in leaders(native.status()))
    late = native.others(leader)[0]
    late.run(f"{UNHEARD}\nsystemctl stop pgpool2; sleep {down}; systemctl start pgpool2")
    native.until(lambda status: status.pgpools[late.name].state == "standby", "it has joined", 20, leader)
    joined = leader.run("date +%s")
    time.sleep(DEADTIME - 4)
    late.run(HEARD)
    time.sleep(DEADTIME)
    said = leader.run(f"journalctl -o cat -u pgpool2 --since=@{joined}")
    assert "is lost" not in said
    assert "became reachable again" not in said
    native.wait_healthy(30)


@pytest.mark.thorough
def test_4_wal_that_cannot_be_streamed_comes_from_the_sources_archive(native: Cluster) -> None:
    """Between the stages, PostgreSQL's port is closed and ssh stays open, as in a recovery of 2008."""
    pg1, pg2, pg3 = native.hosts
    led_elsewhere(native, pg3)
    pg3.run(STOP)
    given_up(native, "pg3")
    stay(pg1)
    begin(pg2)
    pg3.until("runuser -u postgres -- psql -XAtqc 'SELECT status FROM pg_stat_wal_receiver' | grep -q streaming", 60)
    closed = (
        f"nft 'add table inet closed; add chain inet closed out {{ type filter hook output priority 0; }}; "
        f"add rule inet closed out ip daddr {pg1.address} tcp dport 5432 drop'"
    )
    pg3.run(closed)
    pg1.psql("INSERT INTO ledger VALUES ('past pgpool-II', 1)", database="app")
    pg2.psql("INSERT INTO ledger VALUES ('past pgpool-II', 1)", database="app")
    pg2.until("systemctl show -P SubState recovering | grep -qE 'exited|failed|dead'", 150)
    pg3.run("nft delete table inet closed")
    told = pg2.run("journalctl -u recovering -o cat; systemctl stop recovering 2>/dev/null; systemctl reset-failed")
    assert pg3.psql("SELECT count(*) FROM ledger WHERE writer = 'past pgpool-II'", database="app") == "1", told
    pg1.run("systemctl stop stay 2>/dev/null || :; systemctl reset-failed || :")
    time.sleep(5)
    if "pgpoolctl recover pg1" in pg2.run("pgpoolctl status || :"):  # pg3's pgpool-II may have given it up meanwhile
        pg2.run("pgpoolctl recover pg1", seconds=200)
    equal(native)


@pytest.mark.thorough
def test_5_a_full_archive_blocks_no_client_and_is_reported(native: Cluster) -> None:
    """On the source of the copy: clients write, the recovery works, and `check` names the fix."""
    pg1, pg2, pg3 = native.hosts
    pg1.run(f"mount -t tmpfs -o size=20m,uid=postgres,mode=700 full {ARCHIVE}")
    try:
        pg3.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
        given_up(native, "pg3")
        for _ in range(3):
            pg1.psql(FILL)
        with ledger(native, at=pg2, through=pg2, name="full") as written:
            pg2.run("pgpoolctl recover pg3", seconds=200)
        assert written.lost(pg3) == set()
        assert written.longest_gap < 5
        assert "FAIL" in pg1.run("pgpoolctl check | grep -i archive || :")
    finally:
        pg1.run(f"umount {ARCHIVE}")
    equal(native)
    pg1.until("! pgpoolctl check | grep FAIL", 60)


@pytest.mark.thorough
def test_6_after_a_failover_no_second_recovery_begins_beside_the_first(native: Cluster) -> None:
    """pgpool-II then has a new pcp process. The end of one of two recoveries let clients bypass the other's node."""
    pg1, pg2, pg3 = native.hosts
    pg3.run(f"{STOP}; find {DATA} -mindepth 1 -delete")
    given_up(native, "pg3")
    pg1.run(SLOWLY)
    begin(pg1)
    pg3.until(f"[ -s {DATA}/PG_VERSION ]", 60)
    pg2.run(STOP)
    native.until(lambda status: status.nodes["pg2"].pgpool == "down", "pgpool-II gives pg2 up", 60, pg1)
    time.sleep(3)
    leader = native.named(leaders(native.status())[0])
    said = leader.run(f"{PCP_RECOVERY} -n 1 2>&1 || :", seconds=60)
    pg1.run("tc qdisc del dev eth0 root")
    assert "already processing another recovery request" in said
    pg1.until("systemctl show -P SubState recovering | grep -qE 'exited|failed|dead'", 150)
    pg1.run("systemctl stop recovering; systemctl reset-failed || :")
    pg1.run("pgpoolctl recover pg2", seconds=200)
    equal(native)


HALFWAY = "(echo 'BEGIN;'; sleep 6; echo 'SELECT 1;'; sleep 60) | {psql}"
BEGUN = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND state = 'idle in transaction'"


@pytest.mark.thorough
def test_7_a_session_that_ends_while_it_takes_its_snapshot_holds_up_no_other(native: Cluster) -> None:
    """Its process used to leave a counter incremented, and every later commit through this pgpool-II hung."""
    if native.mode != "snapshot_isolation":
        pytest.skip("only snapshot isolation counts sessions that take a snapshot")
    pg1, _, pg3 = native.hosts
    pg1.put("/root/halfway.sh", HALFWAY.format(psql=through_pgpool(pg1, pg1, "").partition("<<")[0]))
    pg1.run("systemd-run -q --collect --unit=halfway -E HOME=/root sh /root/halfway.sh")
    pid = pg3.until(f'runuser -u postgres -- psql -XAtqc "{BEGUN}" | grep .', 20)
    pg3.run(f"kill -STOP {pid}")
    try:
        time.sleep(8)
        pg1.run("pkill -QUIT -f '^pgpool: app app '")
    finally:
        pg3.run(f"kill -CONT {pid}")
    pg1.run(through_pgpool(pg1, pg1, "INSERT INTO ledger VALUES ('after the session', 1)"), seconds=20)
    equal(native)
