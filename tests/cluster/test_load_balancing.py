"""Reads are spread over the nodes by weight, writes go to the primary, and a client can read its own writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cluster.cluster import Cluster, through_pgpool
from tests.cluster.watchdog import leaders
from tests.host import Host, together

SESSIONS = 40
WHERE = "SELECT host(inet_server_addr())"
YML = "/etc/pgpool2/cluster.yml"


@pytest.fixture(scope="module", autouse=True)
def table(cluster: Cluster, pg1: Host) -> None:
    cluster.ask("CREATE TABLE IF NOT EXISTS balanced (x int)", at=pg1)


def answered_by(cluster: Cluster, at: Host, through: Host) -> Counter[str]:
    """Return how many of SESSIONS new sessions each node has answered."""
    ask = f"psql -XAtq 'host={through.address} port=9999 user=app dbname=app sslmode=require' -c '{WHERE}'"
    lines = at.run(f"for session in $(seq {SESSIONS}); do {ask}; done").split()
    names = {host.address: host.name for host in cluster.hosts}
    return Counter(names.get(line, line) for line in lines)


@contextmanager
def configured(cluster: Cluster, edit: str) -> Iterator[None]:
    """Edit cluster.yml on all nodes with sed and apply it; restore everything at the end."""
    try:
        together(lambda host: host.run(f"cp -p {YML} /root/yml; sed -i '{edit}' {YML}; pgpoolctl apply"), cluster.hosts)
        yield
    finally:
        together(lambda host: host.run(f"cp -p /root/yml {YML}; pgpoolctl apply"), cluster.hosts)
        cluster.wait_healthy()


def test_reads_are_spread_over_all_nodes(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    answers = answered_by(cluster, pg1, pg2)
    assert set(answers) == {"pg1", "pg2", "pg3"}, answers
    assert min(answers.values()) >= SESSIONS / 20, answers  # fails by chance once in 175,000 runs


def test_writes_go_to_the_primary_through_any_pgpool(cluster: Cluster, pg1: Host) -> None:
    for through in cluster.hosts:
        where = cluster.ask(
            "INSERT INTO balanced VALUES (1) RETURNING host(inet_server_addr())", at=pg1, through=through
        )
        assert where == pg1.address, through


def test_a_transaction_reads_its_own_writes(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    for number in range(10):
        script = f"BEGIN; INSERT INTO balanced VALUES (100 + {number}); {WHERE}; COMMIT;"  # noqa: S608
        assert cluster.ask(script.replace("; ", ";\n"), at=pg1, through=pg2).split() == [pg1.address]


def believed(cluster: Cluster, node: Host) -> set[str]:
    """Return each pgpool-II's own state of a node."""
    asked = together(lambda host: host.run(through_pgpool(host, host, "SHOW POOL_NODES")), cluster.hosts)
    rows = [line.split("|") for text in asked for line in text.splitlines()]
    return {row[3] for row in rows if row[1] == node.address}


SLOW = """
main=$(systemctl show -P MainPID pgpool2)
kill -STOP $main
systemd-run -q --on-active=3 --timer-property=AccuracySec=1ms kill -CONT $main
"""


def test_detach_and_attach_return_when_every_pgpool_has_done_it(cluster: Cluster, pg2: Host, pg3: Host) -> None:
    """Even if one learns of it late, which used to end the session of a client that connected right after."""
    follower = next(host for host in cluster.hosts if host.name not in leaders(cluster.status()))
    follower.run(SLOW)
    try:
        pg2.run("pgpoolctl detach pg3")
        assert believed(cluster, pg3) == {"down"}
        pg2.run("pgpoolctl detach pg3")
        assert set(answered_by(cluster, pg2, pg3)) == {"pg1", "pg2"}
    finally:
        follower.run(SLOW)
        pg2.run("pgpoolctl attach pg3")
    assert believed(cluster, pg3) <= {"up", "waiting"}
    cluster.wait_healthy()


def test_a_weight_in_cluster_yml_counts_once_it_is_applied(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    with configured(cluster, r"s/^  pg2: \([0-9.]*\)$/  pg2: {address: \1, weight: 0}/"):
        answers = answered_by(cluster, pg1, pg3)
    assert set(answers) == {"pg1", "pg3"}, answers


def test_a_parameter_of_pgpool_in_cluster_yml_wins(cluster: Cluster, pg1: Host) -> None:
    """The documented setting for reading one's own writes outside of transactions."""
    with configured(cluster, "$a pgpool: {disable_load_balance_on_write: always}"):
        script = "INSERT INTO balanced VALUES (7);\nSELECT host(inet_server_addr());"
        answers = {cluster.ask(script, at=pg1) for _ in range(10)}
    assert answers == {pg1.address}


HIDDEN = """
CREATE TABLE noted (x int);
CREATE SEQUENCE counted;
CREATE TABLE guarded AS SELECT 1 AS x;
CREATE FUNCTION note() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO noted VALUES (1) RETURNING x';
CREATE FUNCTION note(int, int) RETURNS boolean LANGUAGE sql VOLATILE AS 'INSERT INTO noted VALUES ($1) RETURNING true';
CREATE OPERATOR ##> (FUNCTION = note, LEFTARG = int, RIGHTARG = int);
CREATE VIEW noting AS SELECT note();
CREATE VIEW behind AS SELECT * FROM noting;
CREATE VIEW operating AS SELECT x ##> 1 FROM balanced;
CREATE VIEW counting AS SELECT nextval('counted');
CREATE VIEW numbering AS SELECT txid_current();
CREATE VIEW locking AS SELECT * FROM balanced FOR UPDATE;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY noted ON guarded USING (note() > 0);
CREATE VIEW reading AS SELECT inet_server_addr() AS at, x FROM balanced UNION ALL SELECT inet_server_addr(), 0;
CREATE MATERIALIZED VIEW computed AS SELECT random() AS x, inet_server_addr() AS at;
CREATE OPERATOR ##= (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)
"""
WRITES = (
    "SELECT * FROM noting", "TABLE noting", "SELECT 1 WHERE EXISTS (SELECT FROM noting)", "SELECT * FROM behind",
    "COPY (SELECT * FROM behind) TO STDOUT", "COPY (SELECT note()) TO STDOUT", "WITH n AS (TABLE noting) TABLE n",
    "SELECT 1 ##> 2", "SELECT * FROM balanced WHERE x ##> 1", "SELECT 1 OPERATOR(public.##>) 2", "TABLE operating",
    "TABLE counting", "TABLE numbering", "SELECT txid_current()", "SELECT pg_current_xact_id()", "TABLE locking",
    "SELECT * FROM (SELECT * FROM balanced FOR UPDATE) AS locked", "TABLE guarded",
    "COPY (SELECT * FROM balanced FOR UPDATE) TO STDOUT", "EXPLAIN ANALYZE SELECT * FROM balanced FOR UPDATE",
    "COPY (WITH d AS (DELETE FROM balanced WHERE x = -1 RETURNING *) TABLE d) TO STDOUT",
    "SELECT 1 ##> ANY (SELECT 2)", "PREPARE p AS TABLE noting; EXECUTE p",
    "CREATE TEMP TABLE t (x int); COPY t TO STDOUT",
    "CREATE TEMP TABLE t (x int); COPY (SELECT * FROM t) TO STDOUT", "CREATE TEMP TABLE t (x int); EXPLAIN TABLE t",
    "CREATE TEMP TABLE t (x int); PREPARE p AS TABLE t; EXECUTE p",
)  # fmt: skip
PREPARED = """
pgbench -n -M {protocol} -c 4 -t 3 -f /root/reads.sql \
    'host=127.0.0.1 port=9999 user=app dbname=app sslmode=require' 2>&1 | grep 'processed: 12/12'
"""
READS = ("SELECT host(at) FROM reading LIMIT 1", "SELECT host(at) FROM reading WHERE 1 ##= 1 LIMIT 1",
         "COPY (SELECT host(at) FROM reading LIMIT 1) TO STDOUT",
         "SELECT host(inet_server_addr()) FROM computed")  # fmt: skip


def test_what_writes_unseen_goes_to_the_primary(cluster: Cluster, pg1: Host) -> None:
    """The primary gets no reads, so a statement wrongly classified as a read reaches a standby, which refuses it."""
    pg1.psql(f"SET ROLE app;\n{HIDDEN}", database="app")
    try:
        with configured(cluster, r"s/^  pg1: \([0-9.]*\)$/  pg1: {address: \1, weight: 0}/"):
            for statement in WRITES:
                cluster.ask(statement.replace("; ", ";\n") + ";", at=pg1)
            before = pg1.psql("SELECT count(*) FROM noted", database="app")
            for statement in READS:
                assert cluster.ask(f"{statement};", at=pg1) not in ("", pg1.address), statement
            pg1.put("/root/reads.sql", "".join(f"{one};\n" for one in (*READS[:2], *WRITES[:2])))
            for protocol in ("simple", "extended", "prepared"):
                pg1.run(PREPARED.format(protocol=protocol), seconds=60)
            assert pg1.attempt("journalctl -u pgpool2 --since=-5min | grep -i 'segmentation fault'").output == ""
        assert int(before) >= 8
    finally:
        pg1.psql("SET ROLE app;\nDROP TABLE noted, guarded;\nDROP SEQUENCE counted CASCADE;\n"
                 "DROP FUNCTION note(), note(int, int) CASCADE;\nDROP VIEW numbering, locking, reading;\n"
                 "DROP MATERIALIZED VIEW computed;\n"
                 "DROP OPERATOR ##= (int, int)", database="app")  # fmt: skip


@pytest.mark.thorough
def test_repeated_applies_leave_no_node_blind(cluster: Cluster) -> None:
    """An agent that read cluster.yml while it queried its pgpool-II used to report that as down from then on."""
    for _ in range(6):
        with configured(cluster, r"s/^  pg2: \([0-9.]*\)$/  pg2: {address: \1, weight: 0}/"):
            pass
