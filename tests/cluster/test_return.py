"""A former primary comes back without a command, and the commits that only it had are named."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import APP, Cluster
from tests.cluster.load import Ledger, ledger
from tests.host import Host, together

DIVERGED = "/var/lib/pgpool2-cluster/diverged"
FAILOVER_SECONDS = 60.0
RETURN_SECONDS = 90.0
DEAF = """
nft -f - <<'END'
table inet deaf {{
    chain stream {{
        type filter hook input priority -300;
        ip saddr {source} tcp sport 5432 meta length > 150 drop
    }}
}}
END
"""
"""Blocks WAL from this primary."""
PSQL = "runuser -u postgres -- env PGOPTIONS='-c synchronous_commit=local' psql -XAtqc '{}' app"
"""Runs a statement on a host whose commit waits for no standby."""
INSERT = PSQL.format("INSERT INTO astray VALUES (1) RETURNING xmin")
COUNT = PSQL.format("SELECT count(*) FROM astray")


@pytest.fixture(scope="module", autouse=True)
def astray(cluster: Cluster, pg1: Host) -> Iterator[None]:
    """A table on all nodes, which the client's user owns; the records of other stories are deleted."""
    together(lambda host: host.run(f"rm -rf {DIVERGED}"), cluster.hosts)
    cluster.ask("CREATE TABLE IF NOT EXISTS astray (number int)", at=pg1)
    cluster.replayed()
    yield
    together(lambda host: host.run(f"rm -rf {DIVERGED}"), cluster.hosts)


def lose_the_primary(cluster: Cluster, primary: Host, number: int) -> tuple[Host, int, Ledger]:
    """Cut the power of the primary while a client writes, and wait for another one.

    Before that, the primary alone commits a row. Return the new primary, the number of that row's transaction, and the
    client's account.
    """
    others = cluster.others(primary)
    with ledger(cluster, at=others[0], through=others[0], name=f"return {number}") as account:
        together(lambda host: host.run(DEAF.format(source=primary.address)), others)
        xid = int(primary.run(INSERT))
        primary.kill()
        together(lambda host: host.run("nft delete table inet deaf"), others)
        cluster.until(lambda status: any(node.role == "primary" and node.name != primary.name
                                         for node in status.nodes.values()),
                      "another primary", FAILOVER_SECONDS, others[0])  # fmt: skip
    return cluster.primary(others[0]), xid, account


def test_1_the_former_primary_becomes_a_standby_and_no_one_types_anything(cluster: Cluster, pg1: Host) -> None:
    primary, xid, account = lose_the_primary(cluster, pg1, 1)
    pg1.start()
    began = time.monotonic()
    cluster.wait_healthy(RETURN_SECONDS)
    print(f"healthy {time.monotonic() - began:.1f} s after the host of the former primary had booted")
    assert cluster.primary() == primary
    assert cluster.writable() == [primary.name]
    assert account.acknowledged
    for host in cluster.hosts:
        host.until(f'[ "$({COUNT})" = 0 ]', 30)
    assert account.lost(primary) == set()
    assert len(set(cluster.checksums().values())) == 1
    the_row_is_named(cluster, pg1, primary, xid)


def the_row_is_named(cluster: Cluster, former: Host, primary: Host, xid: int) -> None:
    """Check that the transaction is in the record on the former primary, with the table and the number of rows."""
    text = former.run(f"cat {DIVERGED}/*/transactions.txt")
    named = re.search(rf"^xid {xid} committed .* UTC, WAL from .*\n    relation \d+/\d+/(\d+): 1 inserted$", text, re.M)
    assert named is not None, text
    assert primary.psql(f"SELECT pg_filenode_relation(0, {named[1]})", database=APP) == "astray"
    rows = {row["name"]: row["diverged"] for row in json.loads(cluster.status(primary).text)["nodes"]}
    (kept,) = rows.pop(former.name)
    assert set(map(tuple, rows.values())) == {()}
    assert kept["committed"] >= 1
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-{former}-\d+", kept["name"])
    assert f"{former}:{kept['name']}" in primary.run("pgpoolctl status")
    words = f"--path={DIVERGED}/{kept['name']} --timeline={kept['timeline']} --start={kept['begins']}"
    waldump = former.attempt(f"$(echo /usr/lib/postgresql/*/bin/pg_waldump) {words} 2>/dev/null").output
    assert re.search(rf"tx: +{xid}, .* COMMIT ", waldump), "the parts of the WAL files are kept, too"
    assert former.run(f"stat -c '%a %U' {DIVERGED}") == "700 postgres"
    assert former.run(f"journalctl -b -q -o cat -p warning -u pgpool2-cluster | grep -c '{kept['name']}'") == "1"


@pytest.mark.thorough
def test_2_without_the_record_of_its_wal_it_stays_down_and_says_why(cluster: Cluster) -> None:
    former = cluster.primary()
    former.run(f"rm -rf {DIVERGED}; touch {DIVERGED}")
    primary, xid, _ = lose_the_primary(cluster, former, 2)
    former.start()
    primary.until(f"pgpoolctl status | grep -q 'WAL that only {former} has cannot be kept'", RETURN_SECONDS)
    told = primary.attempt("pgpoolctl status").output
    assert f"pgpoolctl recover --force {former}" in told, told
    assert cluster.writable() == [primary.name]
    former.run(f"rm {DIVERGED}; pgpoolctl converge --once", seconds=200)
    cluster.wait_healthy(RETURN_SECONDS)
    assert f"xid {xid} committed" in former.run(f"cat {DIVERGED}/*/transactions.txt")


@pytest.mark.thorough
def test_3_a_node_that_an_administrator_has_stopped_stays_stopped(cluster: Cluster) -> None:
    former = cluster.primary()
    other = cluster.others(former)[0]
    former.run("systemctl stop 'postgresql@*'")
    cluster.until(lambda status: status.has_primary, "another primary", FAILOVER_SECONDS, other)
    time.sleep(15)
    assert cluster.status(other).nodes[former.name].postgresql == "stopped"
    former.run("systemctl start postgresql || :")
    cluster.wait_healthy(RETURN_SECONDS)
