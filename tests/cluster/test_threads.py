"""The threads of the agent, through recoveries and a failover: none writes what another one has written without a lock.

A thread sanitiser (owners.py) runs the agent of every node.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.cluster import STREAMING, Cluster
from tests.cluster.conftest import Standing
from tests.cluster.native import STOP
from tests.cluster.owners import FAULT
from tests.host import Host, together

PROGRAM = "/usr/local/lib/owners.py"
DROP_IN = "/etc/systemd/system/pgpool2-cluster.service.d/owners.conf"
AGENT = "pgpool2-cluster"
CUT = (
    "nft 'add table inet deaf; add chain inet deaf in { type filter hook input priority -300; }; "
    "add rule inet deaf in udp dport 9695 drop'"
)


@pytest.fixture(scope="module")
def watched(any_mode: str, standing: Standing) -> Iterator[Cluster]:
    """A cluster whose agents run under the sanitiser."""
    cluster = standing.well(any_mode)
    text = Path(__file__).with_name("owners.py").read_text()

    def begin(host: Host) -> None:
        host.put(PROGRAM, text)
        host.run(f"mkdir -p {Path(DROP_IN).parent}")
        host.put(DROP_IN, f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 {PROGRAM}\n")
        host.run(f"systemctl daemon-reload; systemctl restart {AGENT}")

    def end(host: Host) -> None:
        host.run(f"rm {DROP_IN} {PROGRAM}; systemctl daemon-reload; systemctl restart {AGENT}")

    together(begin, cluster.hosts)
    cluster.wait_healthy()
    yield cluster
    together(end, cluster.hosts)


def reports(cluster: Cluster) -> list[str]:
    """Return the reports of all agents; each must have said how many classes it watches."""
    found: list[str] = []
    for host in cluster.hosts:
        lines = host.run(f"journalctl -b -o cat -u {AGENT}").splitlines()
        counts = [int(line.split()[0]) for line in lines if line.endswith(" classes are watched")]
        assert counts, "the agent ran without the sanitiser"
        assert counts[-1] > 30
        found += [f"{host}: {line}" for line in lines if FAULT in line]
    return found


def cut_briefly(host: Host) -> None:
    """Lose the links of a host, and establish them again."""
    host.run(f"{CUT}; sleep 3; nft delete table inet deaf; sleep 2")
    assert "link with" in host.run(f"journalctl -b -o cat -u {AGENT} | tail -n 200")


def test_1_no_attribute_is_written_by_two_threads_in_a_recovery(watched: Cluster) -> None:
    watched.hosts[0].run(f"pgpoolctl recover --force {watched.hosts[2]}", seconds=200)
    watched.wait_healthy()
    assert reports(watched) == []


def test_2_nor_by_heartbeats_and_the_local_watch(watched: Cluster) -> None:
    """Links are lost and established, the key file and cluster.yml are read again, and PostgreSQL is killed."""
    host = watched.hosts[2]
    cut_briefly(host)
    host.run(f"touch /etc/pgpool2/cluster/heartbeat_key; systemctl kill --signal=HUP --kill-whom=main {AGENT}")
    host.run("kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)")
    host.until(f"journalctl -b -o cat -u {AGENT} | grep -q 'PostgreSQL has died'", 5)
    if watched.mode != STREAMING:
        watched.hosts[0].until(f"pgpoolctl recover {host}", 200)
    watched.wait_healthy()
    assert reports(watched) == []


def test_3_nor_in_a_failover_and_the_return_of_the_failed_node(watched: Cluster) -> None:
    failed, other = watched.hosts[0], watched.hosts[1]
    failed.run(STOP)
    watched.until(lambda status: status.nodes[failed.name].pgpool == "down", "the failover", 60, other)
    if watched.mode == STREAMING:
        watched.until(
            lambda status: any(one.role == "primary" for one in status.nodes.values()), "a primary", 60, other
        )
    other.run(f"pgpoolctl recover {failed}", seconds=200)
    watched.wait_healthy()
    assert reports(watched) == []
