"""The leader of the watchdog, and how to make a host lead, in modes in which every node is a primary."""

from __future__ import annotations

import time

from tests.cluster.cluster import Cluster, Status
from tests.host import Host, together

DEADTIME = 8
"""`wd_heartbeat_deadtime` in seconds: a returning pgpool-II without a heartbeat by then is declared lost."""


def leaders(status: Status) -> list[str]:
    """Return the names of the hosts whose pgpool-II claims to lead; for a moment after a cut, these are two.

    In streaming replication, that is the one on the primary's host.
    """
    return [row.name for row in status.pgpools.values() if row.state == "leader"]


def led_by(cluster: Cluster, host: Host) -> None:
    """Make the host's pgpool-II lead, by stopping all others until it does."""
    if leaders(cluster.status()) == [host.name]:
        return
    others = cluster.others(host)
    together(lambda other: other.run("systemctl stop pgpool2"), others)
    stopped = time.monotonic()
    cluster.until(lambda status: leaders(status) == [host.name], f"the pgpool-II of {host} leads alone", 60, host)
    time.sleep(max(0, stopped + DEADTIME + 3 - time.monotonic()))
    together(lambda other: other.run("systemctl start pgpool2"), others)
    cluster.wait_healthy(60)
    cluster.until(lambda status: leaders(status) == [host.name], f"the pgpool-II of {host} leads", 30, host)


def led_elsewhere(cluster: Cluster, host: Host) -> None:
    """Make the pgpool-II of another host lead."""
    if leaders(cluster.status()) == [host.name]:
        host.run("systemctl stop pgpool2")
        other = cluster.others(host)[0]
        cluster.until(lambda status: leaders(status) not in ([], [host.name]), "another leads", 60, other)
        host.run("systemctl start pgpool2")
        cluster.wait_healthy(60)
    assert leaders(cluster.status()) != [host.name]
