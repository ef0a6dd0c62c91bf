"""Heartbeats between agents: links, one-way faults, the death of PostgreSQL, and datagrams that must not count.

Times are those of the journals. The hosts share one kernel, and so one clock.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import Cluster
from tests.host import Host

AGENT = "pgpool2-cluster"
LOST_SECONDS = 6.0
"""By then, a link is lost or up again on a busy machine; an idle one takes 2 s."""
DEATH_SECONDS = 3.0
"""By then, the peers know of a death on a busy machine; an idle one takes tenths of a second."""
ONE_WAY = """
nft -f - <<'END'
table inet oneway {{
    chain in {{
        type filter hook input priority -300;
        ip saddr {source} udp dport 9695 drop
    }}
}}
END
date +%s.%N
"""
"""Drops heartbeats from one host only, and prints the time."""
MEND = "date +%s.%N; nft delete table inet oneway 2>/dev/null || :"
KILL = "kill -9 $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid); date +%s.%N"
FORGED = """
import hashlib, hmac, json, socket
body = json.dumps({{"v": 1, "from": "pg3", "to": "pg1", "inc": 7, "seq": 2**40, "echo": [], "lost": [],
                   "state": {{"pg": "down"}}}}).encode()
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
for key in (bytes(32), b"another"):
    door.sendto(hmac.digest(key, body, "sha256") + body, ("{address}", 9695))
door.sendto(b"x" * 1300, ("{address}", 9695))
"""


def link(host: Host, other: str) -> str | None:
    """Return the link of a host with another node, by `pgpoolctl status --json`."""
    found = json.loads(host.attempt("pgpoolctl status --json").output)
    rows = {row["name"]: row["link"] for row in [*found["nodes"], *found["pgpools"]]}
    answer: str | None = rows[other]
    return answer


def said_at(host: Host, text: str, since: float, seconds: float = 10.0) -> float:
    """Return when the agent of a host first logged a line with `text` after `since`; wait for it if need be."""
    command = f"journalctl --no-pager -o short-unix -u {AGENT} --since=@{int(since)}"
    end = time.monotonic() + seconds
    while True:
        lines = re.findall(rf"^(\d+\.\d+) .*{re.escape(text)}", host.run(command), re.MULTILINE)
        later = [float(at) for at in lines if float(at) >= since - 0.01]
        if later or time.monotonic() > end:
            assert later, f"{host} has not logged {text!r}"
            return later[0]
        time.sleep(0.2)


def test_every_link_is_up(cluster: Cluster) -> None:
    for host in cluster.hosts:
        for other in cluster.others(host):
            assert link(host, other.name) == "up", (host, other)
        assert link(host, host.name) is None
        passed = host.run("pgpoolctl check | grep 'heartbeats from'").splitlines()
        assert len(passed) == 6
        assert all(line.startswith("ok") for line in passed), passed


def test_only_agents_listen_at_the_nodes_own_addresses(cluster: Cluster) -> None:
    for host in cluster.hosts:
        listeners = host.run("ss -Hlnu 'sport = 9695'").splitlines()
        assert len(listeners) == 1, listeners
        assert f"{host.address}:9695" in listeners[0]
        assert "9695" in host.run("nft list table inet pgpool2_cluster")


@pytest.fixture
def one_way(pg1: Host, pg2: Host) -> Iterator[float]:
    """Cut heartbeats from pg1 to pg2, and yield the time of the cut."""
    cut = pg2.run(ONE_WAY.format(source=pg1.address))
    yield float(cut)
    pg2.run(MEND)


def test_a_cut_in_one_direction_is_seen_by_both_sides_within_seconds(
    one_way: float, pg1: Host, pg2: Host, pg3: Host
) -> None:
    for host, other in ((pg1, "pg2"), (pg2, "pg1")):
        lost = said_at(host, f"the link with {other} is lost", one_way) - one_way
        print(f"{host} has lost its link with {other} after {lost:.2f} s")
        assert lost < LOST_SECONDS
        assert link(host, other) == "lost"
        assert link(host, "pg3") == "up"
    assert {link(pg3, "pg1"), link(pg3, "pg2")} == {"up"}
    failed = pg1.run("pgpoolctl check | grep ^FAIL || :")
    assert "pg1: heartbeats from pg2 arrive: they arrive, but pg2 receives none of this node" in failed
    assert "9695/udp" in failed
    mended = float(pg2.run(MEND))
    for host, other in ((pg1, "pg2"), (pg2, "pg1")):
        up = said_at(host, f"heartbeats with {other} work in both directions", mended) - mended
        print(f"{host} has its link with {other} again after {up:.2f} s")
        assert up < LOST_SECONDS


def test_a_killed_postgresql_is_in_the_peers_view_at_once(cluster: Cluster, pg1: Host, pg2: Host, pg3: Host) -> None:
    """A standby is killed; the agent starts it again."""
    killed = float(pg3.run(KILL))
    for host in (pg1, pg2):
        seen = said_at(host, "PostgreSQL of pg3 is down, by its heartbeat", killed) - killed
        print(f"{host} has seen the death of pg3's PostgreSQL after {seen:.3f} s")
        assert seen < DEATH_SECONDS
    cluster.until(lambda status: status.nodes["pg3"].postgresql == "up", "pg3 is up again", 60, pg1)
    cluster.wait_healthy()


@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_a_planned_restart_of_postgresql_is_no_death(cluster: Cluster, verb: str, pg1: Host, pg2: Host) -> None:
    began = float(pg1.run("date +%s.%N"))
    pg1.run(f"systemctl {verb} 'postgresql@*'")
    cluster.wait_healthy(60)
    for host, text in ((pg1, "has died"), (pg2, "PostgreSQL of pg1 is down")):
        assert text not in host.run(f"journalctl --no-pager -o cat -u {AGENT} --since=@{int(began)}"), host


def test_a_restart_of_pgpool_is_no_death(cluster: Cluster, pg3: Host) -> None:
    began = float(pg3.run("date +%s.%N"))
    pg3.run("systemctl restart pgpool2")
    cluster.wait_healthy(60)
    assert "has died" not in pg3.run(f"journalctl --no-pager -o cat -u {AGENT} --since=@{int(began)}")


def test_datagrams_with_another_key_count_for_nothing(cluster: Cluster, pg1: Host, pg2: Host, pg3: Host) -> None:
    """They come from a node's address, which the packet filter admits."""
    began = float(pg1.run("date +%s.%N"))
    pg3.put("/root/forge.py", FORGED.format(address=pg1.address))
    for _ in range(20):
        pg3.run("python3 /root/forge.py")
    assert link(pg1, "pg3") == "up"
    assert link(pg2, "pg3") == "up"
    journal = pg1.run(f"journalctl --no-pager -o cat -u {AGENT} --since=@{int(began)}")
    assert "link with pg3" not in journal
    assert "PostgreSQL of pg3" not in journal
    cluster.wait_healthy()


def test_the_agent_ends_at_once_and_is_linked_again_after_a_restart(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    began = float(pg2.run("date +%s.%N"))
    pg2.run(f"timeout 10 systemctl restart {AGENT}")
    said_at(pg2, "heartbeats with pg1 work in both directions", began)
    cluster.wait_healthy()
    assert link(pg1, "pg2") == "up"
