"""What tests of native replication share: every node is a primary, and all have the same rows."""

from __future__ import annotations

from tests.cluster.cluster import Cluster, Status, through_pgpool
from tests.host import Host, together

NATIVE_MODES = ("native_replication", "snapshot_isolation")
STOP = "systemctl stop 'postgresql@*'"
PCP_RECOVERY = "runuser -u postgres -- /usr/sbin/pcp_recovery_node -h 127.0.0.1 -p 9898 -U pgpool_pcp -w"
TABLES = """
DROP TABLE IF EXISTS numbered, ledger;
CREATE TABLE numbered (id serial PRIMARY KEY, word text, at timestamptz DEFAULT now());
CREATE TABLE ledger (writer text, number int, PRIMARY KEY (writer, number));
"""


def fill(cluster: Cluster) -> None:
    """Give the cluster pgbench's tables and two more."""
    first = cluster.hosts[0]
    first.run(f"pgbench -i -q -s 2 -h {first.address} -p 9999 -U app app")
    cluster.ask(TABLES, at=first)


def equal(cluster: Cluster) -> None:
    """All is well, every node is a primary, and all rows and sequences are the same."""
    cluster.wait_healthy(60)
    assert cluster.writable() == [host.name for host in cluster.hosts]
    found = cluster.contents()
    assert len(set(found.values())) == 1, found


def given_up(cluster: Cluster, name: str) -> None:
    """Wait until every other pgpool-II has given a node up, and serves without it.

    Who leads the watchdog knows first; the others end their clients' sessions when they learn it.
    """
    node = cluster.named(name)
    others = cluster.others(node)
    cluster.until(lambda status: status.nodes[name].pgpool == "down", f"pgpool-II gives {name} up", 60, others[0])
    for host in others:
        nodes = through_pgpool(host, host, "SHOW POOL_NODES")
        host.until(f"( {nodes}\n) | grep -F '|{node.address}|5432|down|'", 30)
        host.until(through_pgpool(host, host, "SELECT 1"), 30)  # its processes are made anew


def leaders(status: Status) -> list[str]:
    """Return the names of the hosts whose pgpool-II says that it leads: two for a moment after a cut."""
    return [row.name for row in status.pgpools.values() if row.state == "leader"]


def led_by(cluster: Cluster, host: Host) -> None:
    """See to it that the host's pgpool-II leads: it is the only one left until it does."""
    if leaders(cluster.status()) == [host.name]:
        return
    others = cluster.others(host)
    together(lambda other: other.run("systemctl stop pgpool2"), others)
    cluster.until(lambda status: leaders(status) == [host.name], f"the pgpool-II of {host} leads alone", 60, host)
    together(lambda other: other.run("systemctl start pgpool2"), others)
    cluster.wait_healthy(60)
    cluster.until(lambda status: leaders(status) == [host.name], f"the pgpool-II of {host} leads", 30, host)


def led_elsewhere(cluster: Cluster, host: Host) -> None:
    """See to it that the pgpool-II of another host leads."""
    if leaders(cluster.status()) == [host.name]:
        host.run("systemctl restart pgpool2")
        cluster.wait_healthy(60)
    assert leaders(cluster.status()) != [host.name]
