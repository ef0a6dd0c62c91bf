"""Shared by the tests of native replication: every node is a primary, and all have the same rows."""

from __future__ import annotations

from tests.cluster.cluster import PCP, Cluster, through_pgpool

NATIVE_MODES = ("native_replication", "snapshot_isolation")
STOP = "systemctl stop 'postgresql@*'"
PCP_RECOVERY = PCP.format("pcp_recovery_node")
TABLES = """
DROP TABLE IF EXISTS numbered, ledger;
CREATE TABLE numbered (id serial PRIMARY KEY, word text, at timestamptz DEFAULT now());
CREATE TABLE ledger (writer text, number int, PRIMARY KEY (writer, number));
"""


def fill(cluster: Cluster) -> None:
    """Create pgbench's tables and two more in the cluster."""
    first = cluster.hosts[0]
    first.run(f"pgbench -i -q -s 2 -h {first.address} -p 9999 -U app app")
    cluster.ask(TABLES, at=first)


def equal(cluster: Cluster) -> None:
    """Check that the cluster is healthy, every node is a primary, and all rows and sequences are the same."""
    cluster.wait_healthy(60)
    assert cluster.writable() == [host.name for host in cluster.hosts]
    found = cluster.contents()
    assert len(set(found.values())) == 1, found


def given_up(cluster: Cluster, name: str) -> None:
    """Wait until every other pgpool-II has given a node up, and serves without it.

    The watchdog's leader knows first; the others end their clients' sessions when they learn of it.
    """
    node = cluster.named(name)
    others = cluster.others(node)
    cluster.until(lambda status: status.nodes[name].pgpool == "down", f"pgpool-II gives {name} up", 60, others[0])
    for host in others:
        nodes = through_pgpool(host, host, "SHOW POOL_NODES")
        host.until(f"( {nodes}\n) | grep -F '|{node.address}|5432|down|'", 30)
        host.until(through_pgpool(host, host, "SELECT 1"), 30)  # its processes are restarted
