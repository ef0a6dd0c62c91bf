"""Faults of booted hosts as data: how each one begins and how it heals."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.drill import relay
from tests.host import Host

PEERS, FAMILY = "@PEERS@", "@FAMILY@"
"""Placeholders: the addresses of the other nodes as elements of an nftables set, and `ip` or `ip6`."""
CUT = """
nft -f - <<'NFT'
table inet {table} {{
{chains}
}}
NFT
"""
FROM_PEERS = "chain input { type filter hook input priority -300; @FAMILY@ saddr { @PEERS@ } drop; }"
TO_PEERS = "chain output { type filter hook output priority -300; @FAMILY@ daddr { @PEERS@ } drop; }"
LOSSY = "chain input { type filter hook input priority -300; iif != lo numgen random mod 100 < 5 drop; }"
MENDED = "nft delete table inet {table} 2>/dev/null || :"
POSTGRES = "/usr/lib/postgresql/*/bin/postgres"
REFUSED = """
for main in {mains}; do
    for pid in $main $(pgrep -P "$main"); do
        runuser -u postgres -- prlimit --pid "$pid" --fsize={limit}: || :
    done
done
"""
"""Sets a soft limit on the size of files, so that writes past it fail with EFBIG, as they do on a full or failing disk.

A file system cannot be filled here: the hosts share the machine's disk, and docker gives them no loop device.
"""
POSTMASTERS = "$(head -qn 1 /var/lib/postgresql/*/main/postmaster.pid)"
AGENT = "$(systemctl show -P MainPID pgpool2-cluster)"
MEGABYTE = "1048576"
"""PostgreSQL's WAL segments are larger, so the next write to one fails, and PostgreSQL ends with a PANIC."""
AHEAD = """
dpkg -s libfaketime >/dev/null 2>&1 || apt-get install -y -q libfaketime </dev/null
install -d /run/systemd/system/pgpool2-cluster.service.d
echo +0 >/var/lib/faketime
cat >/run/systemd/system/pgpool2-cluster.service.d/faketime.conf <<END
[Service]
Environment=LD_PRELOAD=$(dpkg -L libfaketime | grep '/libfaketime[.]so[.]1$')
Environment=FAKETIME_TIMESTAMP_FILE=/var/lib/faketime FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
END
systemctl daemon-reload
systemctl restart pgpool2-cluster
sleep 2
echo +3600 >/var/lib/faketime
"""
"""The clock of the machine is every host's, so only the agent sees the step."""
BACK = """
if [ -e /run/systemd/system/pgpool2-cluster.service.d/faketime.conf ]; then
    echo +0 >/var/lib/faketime
    sleep 1
    rm -f /run/systemd/system/pgpool2-cluster.service.d/faketime.conf
    systemctl daemon-reload
    systemctl restart pgpool2-cluster
fi
"""
SLOW = """
echo {program} | base64 -d >/run/relay.py
systemd-run -q --unit=relay python3 /run/relay.py @PEERS@
until nft list table ip relay >/dev/null 2>&1; do sleep 0.1; done
"""
QUICK = "systemctl stop relay 2>/dev/null || :; nft delete table ip relay 2>/dev/null || :"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one node. `breaks` and `heals` are shell scripts that root runs on the node's host."""

    name: str
    title: str
    breaks: str = ""
    heals: str = ""
    power: bool = False
    """Whether the host then loses its power; healing powers it on and waits until it has booted."""
    pauses: bool = False
    """Whether every process of the host stands still; meanwhile no command runs on it."""

    def begin(self, cluster: Cluster, host: Host) -> None:
        """Inject the fault into a running host."""
        if self.breaks:
            host.run(scripted(self.breaks, (other.address for other in cluster.others(host))))
        if self.power:
            host.container.kill()
        if self.pauses:
            host.container.pause()

    def end(self, cluster: Cluster, host: Host) -> None:
        """Heal the fault; the cluster may need a while to become healthy again."""
        if self.pauses:
            host.container.unpause()
        if self.power:
            host.start()
        if self.heals:
            host.run(scripted(self.heals, (other.address for other in cluster.others(host))))


def scripted(script: str, peers: Iterable[str]) -> str:
    """Return a script with the addresses of the other nodes, which are all of one family."""
    addresses = list(peers)
    family = "ip6" if any(":" in address for address in addresses) else "ip"
    return script.replace(PEERS, ", ".join(addresses)).replace(FAMILY, family)


def _filter(name: str, title: str, *chains: str) -> Fault:
    """Return a fault that is a table of nftables of its own, so that two of them can be active at once."""
    table = name.replace("-", "_")
    return Fault(name, title, CUT.format(table=table, chains="\n".join(chains)), MENDED.format(table=table))


def _signal(name: str, title: str, unit: str, signal: str, heals: str = "") -> Fault:
    return Fault(name, title, f"systemctl kill -s {signal} '{unit}'", heals)


def _stop(name: str, title: str, unit: str) -> Fault:
    return _signal(name, title, unit, "STOP", f"systemctl kill -s CONT '{unit}' || :")


POSTGRESQL_KILLED = Fault(
    "postgresql-killed", "PostgreSQL is killed and cannot start",
    f"chmod a-x {POSTGRES}; systemctl kill -s KILL 'postgresql@*'", f"chmod a+x {POSTGRES}",
)  # fmt: skip
HOST_KILLED = Fault("host-killed", "the host ends, and its connections are closed", power=True)
HOST_SILENT = Fault("host-silent", "the host loses its link and its power", "ip link set eth0 down", power=True)
CUT_OFF = _filter("cut-off", "the host reaches its clients, but no other node", FROM_PEERS, TO_PEERS)
FAULTS = (
    POSTGRESQL_KILLED,
    _stop("postgresql-stopped", "all processes of PostgreSQL are stopped", "postgresql@*"),
    _signal("agent-killed", "the agent is killed, and systemd restarts it", "pgpool2-cluster", "KILL"),
    _stop("agent-stopped", "the agent is stopped", "pgpool2-cluster"),
    _signal("pgpool-killed", "pgpool-II is killed, and systemd restarts it", "pgpool2", "KILL"),
    _stop("pgpool-stopped", "all processes of pgpool-II are stopped", "pgpool2"),
    HOST_KILLED,
    HOST_SILENT,
    Fault("link-down", "the host loses its link", "ip link set eth0 down", "ip link set eth0 up"),
    Fault("host-paused", "all processes of the host stand still", pauses=True),
    CUT_OFF,
    _filter("deaf", "the host receives nothing from other nodes", FROM_PEERS),
    _filter("mute", "other nodes receive nothing from the host", TO_PEERS),
    _filter("lossy", "the host loses 5 % of the packets that it receives", LOSSY),
    Fault("slow", "new connections and heartbeats to other nodes take 200 ms longer for a round trip", SLOW.format(
        program=base64.b64encode(Path(relay.__file__).read_bytes()).decode()), QUICK),
    Fault(
        "disk-of-postgresql", "writes of PostgreSQL fail",
        REFUSED.format(mains=POSTMASTERS, limit=MEGABYTE), REFUSED.format(mains=POSTMASTERS, limit="unlimited"),
    ),
    Fault(
        "disk-of-agent", "writes of the agent fail",
        REFUSED.format(mains=AGENT, limit="0"), REFUSED.format(mains=AGENT, limit="unlimited"),
    ),
    Fault("clock-ahead", "the agent's clock steps an hour ahead, and back", AHEAD, BACK),
)  # fmt: skip
PAUSES = ("postgresql-stopped", "pgpool-stopped", "agent-stopped", "host-paused")
"""Faults after which a node that stood still serves reads until its agent has found out."""
NAMED = {fault.name: fault for fault in FAULTS}
