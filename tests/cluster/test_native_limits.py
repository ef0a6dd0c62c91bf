"""The table in docs/explanation/native-replication.md, line by line: statements that give equal data on all nodes."""

from __future__ import annotations

import pytest
from tests.cluster.cluster import APP, Cluster, through_pgpool
from tests.cluster.native import equal, given_up
from tests.host import Host, together

TABLE = """
DROP TABLE IF EXISTS made;
CREATE TABLE made (id serial PRIMARY KEY, kind text, at timestamptz DEFAULT now(), number float8);
CREATE OR REPLACE FUNCTION written(kind text) RETURNS int LANGUAGE sql AS
    $$ INSERT INTO made (kind, at) VALUES (kind, '2008-01-01') RETURNING 1 $$;
"""
SAME = {
    "now() in INSERT": "INSERT INTO made (kind, at) VALUES ('{kind}', now())",
    "now() by DEFAULT": "INSERT INTO made (kind) VALUES ('{kind}')",
    "CURRENT_TIMESTAMP in UPDATE": "INSERT INTO made (kind, at) VALUES ('{kind}', NULL);"
    "UPDATE made SET at = CURRENT_TIMESTAMP WHERE kind = '{kind}'",
    "a volatile function": "SELECT written('{kind}')",
    "one that a view calls": "CREATE OR REPLACE VIEW writing AS SELECT written('{kind}'); TABLE writing",
    "one that a view calls, in COPY": "COPY (SELECT written('{kind}')) TO STDOUT",
    "one that is called to all": "/*NO LOAD BALANCE*/ SELECT written('{kind}')",
    "COPY": "COPY made (kind, at) FROM STDIN;\n{kind}\t2008-01-01\n\\.",
}
DIFFERENT = {
    "random()": "INSERT INTO made (kind, number) VALUES ('{kind}', random())",
    "clock_timestamp()": "INSERT INTO made (kind, at) VALUES ('{kind}', clock_timestamp())",
    "now() by DEFAULT in COPY": "COPY made (kind) FROM STDIN;\n{kind}\n\\.",
}


@pytest.fixture(scope="module")
def made(native: Cluster) -> Cluster:
    """A table to which all tests write."""
    native.ask(TABLE, at=native.hosts[0])
    return native


def rows(cluster: Cluster, kind: str) -> list[str]:
    """Return the data that a kind of statement has written, by node."""
    sql = f"SELECT string_agg(format('%s %s', at, number), ',' ORDER BY id) FROM made WHERE kind = '{kind}'"  # noqa: S608
    return list(together(lambda host: host.psql(sql, database=APP), cluster.hosts))


@pytest.mark.parametrize("kind", SAME)
def test_statements_that_give_equal_data(made: Cluster, kind: str) -> None:
    made.ask(SAME[kind].format(kind=kind), at=made.hosts[0])
    first, *others = rows(made, kind)
    assert first
    assert others == [first] * 2


def test_a_failed_transaction_ends_no_session(made: Cluster) -> None:
    """It allows no queries, so pgpool-II must not look up an unknown relation in the catalog."""
    made.ask("CREATE TABLE unknown_yet (x int)", at=made.hosts[0])
    sql = "BEGIN;\nSELECT 1/0;\nSELECT * FROM unknown_yet WHERE x = 1;\nROLLBACK;\nSELECT 'still here';"
    pg1 = made.hosts[0]
    said = pg1.attempt(through_pgpool(pg1, pg1, sql).replace("ON_ERROR_STOP=1", "ON_ERROR_STOP=0"), seconds=60).output
    made.ask("DROP TABLE unknown_yet", at=pg1)
    assert "still here" in said, said


@pytest.mark.parametrize("kind", DIFFERENT)
def test_statements_that_give_different_data(made: Cluster, kind: str) -> None:
    """The data differs, as the page says. If pgpool-II supports this one day, the page has to be corrected."""
    made.ask(DIFFERENT[kind].format(kind=kind), at=made.hosts[0])
    assert len(set(rows(made, kind))) == 3


def test_sequences_advance_in_one_order_through_every_pgpool(made: Cluster) -> None:
    """insert_lock."""

    def insert(host: Host) -> None:
        for number in range(10):
            made.ask(f"INSERT INTO made (kind, number) VALUES ('serial', {number})", at=host)  # noqa: S608

    together(insert, made.hosts)
    sql = "SELECT string_agg(format('%s %s', id, number), ',' ORDER BY id) FROM made WHERE kind = 'serial'"
    found = {host.psql(sql, database=APP) for host in made.hosts}
    assert len(found) == 1
    assert len({entry.split()[0] for entry in found.pop().split(",")}) == 30


def test_large_objects_get_other_numbers(made: Cluster) -> None:
    """`lo_creat` counts on each node separately."""
    made.hosts[1].psql("SELECT lo_creat(-1) FROM generate_series(1, 3)", database=APP)
    made.ask("SELECT lo_creat(-1)", at=made.hosts[0])
    newest = [host.psql("SELECT max(oid) FROM pg_largeobject_metadata", database=APP) for host in made.hosts]
    assert len(set(newest)) > 1


def test_a_password_set_by_pgpoolctl_is_equal_on_all_nodes(made: Cluster) -> None:
    verifier = f"SELECT rolpassword FROM pg_authid WHERE rolname = '{APP}'"  # noqa: S608
    assert len({host.psql(verifier) for host in made.hosts}) == 1


def test_no_client_can_bypass_pgpool(made: Cluster) -> None:
    """The address is in the clients' network but belongs to no node."""
    pg1, pg2, _ = made.hosts
    other = pg1.address.rpartition(".")[0] + ".251"
    pg1.run(f"ip address add {other}/24 dev eth0; ip route add {pg2.address}/32 dev eth0 src {other}")
    try:
        where = f"host={pg2.address} port=5432 user={APP} dbname={APP} sslmode=require"
        answer = pg1.attempt(f"PGPASSWORD=wrong psql -c 'SELECT 1' '{where}'")
    finally:
        pg1.run(f"ip route del {pg2.address}/32; ip address del {other}/24 dev eth0")
    assert answer.status != 0
    assert f'no pg_hba.conf entry for host "{other}"' in answer.output


def test_z_a_node_with_a_different_row_count_is_detached(made: Cluster) -> None:
    pg1, _, pg3 = made.hosts
    made.ask("INSERT INTO made (kind) VALUES ('one')", at=pg1)
    pg3.psql("DELETE FROM made WHERE kind = 'one'", database=APP)
    update = through_pgpool(pg1, pg1, "UPDATE made SET number = 1 WHERE kind = 'one'")
    assert pg1.attempt(update, seconds=60).status != 0
    given_up(made, "pg3")
    pg1.run("pgpoolctl recover pg3", seconds=200)
    made.ask("DROP VIEW writing;\nDROP TABLE made", at=pg1)
    equal(made)
