"""The cluster as cluster.yml describes it, parsed and validated.

Only `cluster_file.parse` creates a `Cluster`. All its strings are plain (plain.py), so configuration files can contain
them without quoting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from ..ground import plain, ports
from ..ground.errors import UsageError


class Mode(StrEnum):
    """How the nodes' data is kept equal, by pgpool-II's names (backend_clustering_mode)."""

    STREAMING_REPLICATION = "streaming_replication"
    NATIVE_REPLICATION = "native_replication"
    SNAPSHOT_ISOLATION = "snapshot_isolation"

    @property
    def streams(self) -> bool:
        """Whether standbys stream from one primary; in the other modes every node is a primary."""
        return self is Mode.STREAMING_REPLICATION


class Service(StrEnum):
    """A service that a node can run."""

    POSTGRESQL = "postgresql"
    PGPOOL = "pgpool"


@dataclass(frozen=True, slots=True)
class PostgresqlCluster:
    """A cluster in postgresql-common's sense: `17/main`, as pg_lsclusters shows it."""

    major: int
    name: str

    def __str__(self) -> str:
        return f"{self.major}/{self.name}"


PRIORITY = 100
"""The default of failover_priority."""


@dataclass(frozen=True, slots=True)
class Node:
    """One server of the cluster.

    `id`: its position in cluster.yml, from 0; pgpool-II numbers its backends separately (`Cluster.backend`).
    `host`: the host name that cluster.yml gives in place of an address, "" if it gives an address.
    `address`: the IP address, or the host name until that is resolved (addresses.py).
    `line`: its line in cluster.yml.
    `failover_priority`: of two standbys that have received as much, the one with the higher value is promoted.
    `nofailover`: it answers claims, follows and serves reads, but only an administrator who accepts a loss promotes it.
    """

    id: int
    name: str
    address: str
    port: int
    weight: float
    runs: frozenset[Service]
    host: str = ""
    line: int = field(default=0, compare=False)
    failover_priority: int = PRIORITY
    nofailover: bool = False

    @property
    def written(self) -> str:
        """The address as cluster.yml gives it: an IP address or a host name."""
        return self.host or self.address

    @property
    def slot(self) -> str:
        """The name of the replication slot for this node; slot names cannot contain hyphens or dots."""
        return self.name.replace("-", "_").replace(".", "_")

    @property
    def hosts(self) -> str:
        """The node as an address column of pg_hba.conf: `10.0.0.1/32`."""
        return f"{self.ip}/{self.ip.max_prefixlen}"

    @property
    def ip(self) -> plain.Address:
        """Its IP address; raises UsageError if it is a host name that has not been resolved yet."""
        address = plain.address(self.address)
        if address is None:
            reason = f"{self.host}, the address of {self.name}, was not looked up yet"
            raise UsageError(reason, hint="pgpoolctl apply reports why")
        return address


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate files that replace the machine's own, as absolute paths."""

    certificate: str
    key: str
    ca: str | None


@dataclass(frozen=True, slots=True)
class Archive:
    """How nodes archive WAL in the modes without streaming.

    `keep_hours`: how long files are kept. `timeout`: PostgreSQL's archive_timeout in seconds.
    """

    compress: bool = False
    keep_hours: int = 24
    timeout: int = 60


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of a configuration file; `value` is what goes between the quotes."""

    name: str
    value: str


DRAIN_SECONDS = 3
"""The template's client_idle_limit_in_recovery; short, because new clients have to wait that long."""
_START_SECONDS = 300
"""Time limit for a recovered standby to start."""
_UNREACHABLE_SECONDS = 27
"""How long a pgpool-II that has to drain its sessions may be unreachable."""
_POOL_DEFAULTS = {"num_init_children": 32, "max_pool": 4}
"""pgpool-II's defaults."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The whole of cluster.yml. Nodes keep the file's order; `postgresql` is None for the newest on the machine."""

    name: str
    mode: Mode
    postgresql: PostgresqlCluster | None
    nodes: tuple[Node, ...]
    clients: tuple[plain.Network, ...]
    virtual_ip: plain.Interface | None
    tls: Tls | None
    synchronous: int
    pgpool: tuple[Parameter, ...]
    postgresql_conf: tuple[Parameter, ...]
    archive: Archive = Archive()
    automatic_return: bool = True
    """A node whose data has diverged becomes a standby again without a command (streaming replication only)."""

    @property
    def fingerprint(self) -> str:
        """16 characters that are equal on two nodes whose cluster.yml agree in everything that affects decisions.

        Keys that older packages do not know count only if they are used, so that an upgrade changes no fingerprint.
        """
        nodes = [[node.name, node.written, node.port, sorted(node.runs), *_of_failover(node)] for node in self.nodes]
        text = json.dumps([self.mode, self.synchronous, nodes])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def archives(self, node: Node) -> bool:
        """Return whether the node's PostgreSQL archives WAL; with streaming, replication slots keep it instead."""
        return not self.mode.streams and Service.POSTGRESQL in node.runs

    @property
    def databases(self) -> tuple[Node, ...]:
        """The nodes that run PostgreSQL; a new cluster starts with the data of the first one."""
        return tuple(node for node in self.nodes if Service.POSTGRESQL in node.runs)

    @property
    def pgpools(self) -> tuple[Node, ...]:
        """The nodes that run pgpool-II."""
        return tuple(node for node in self.nodes if Service.PGPOOL in node.runs)

    @property
    def uses_watchdog(self) -> bool:
        """Whether the pgpool-IIs watch each other: several of them, in a mode in which every node is a primary."""
        return len(self.pgpools) > 1 and not self.mode.streams

    @property
    def pool_port(self) -> int:
        """The TCP port on which every pgpool-II serves clients."""
        chosen = [parameter.value for parameter in self.pgpool if parameter.name == "port"]
        return int(chosen[-1]) if chosen and chosen[-1].isdigit() else ports.POOL

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports of the cluster's services on any node; without the port of sshd, which has other users too."""
        servers = (node.port for node in self.databases)
        return tuple(sorted({*servers, self.pool_port, ports.PCP, ports.WATCHDOG}))

    @property
    def pooled(self) -> int:
        """Limit of connections from all pgpool-IIs to one PostgreSQL: num_init_children × max_pool per pgpool-II."""
        chosen = {parameter.name: parameter.value for parameter in self.pgpool}
        most = 1
        for name, default in _POOL_DEFAULTS.items():
            value = chosen.get(name, "")
            most *= int(value) if value.isdecimal() else default
        return most * len(self.pgpools)

    @property
    def drain_seconds(self) -> float:
        """How long sessions may continue before a second stage begins: pgpool-II's client_idle_limit_in_recovery."""
        chosen = [line.value for line in self.pgpool if line.name == "client_idle_limit_in_recovery"]
        limit = chosen[-1] if chosen else ""
        return max(0.0, float(limit)) if limit.lstrip("-").isdecimal() else DRAIN_SECONDS

    @property
    def recovery_timeout(self) -> int:
        """How long, in seconds, pgpool-II waits for sessions to end and for a recovered server to start."""
        chosen = [line.value for line in self.pgpool if line.name == "recovery_timeout" and line.value.isdecimal()]
        if chosen:
            return int(chosen[-1])
        return _START_SECONDS if self.mode.streams else int(self.drain_seconds) + _UNREACHABLE_SECONDS

    @property
    def names_standbys(self) -> bool:
        """Whether the cluster sets synchronous_standby_names; it does not if cluster.yml's postgresql_conf does."""
        return self.mode.streams and all(line.name != "synchronous_standby_names" for line in self.postgresql_conf)

    def standby_names(self, *, came: bool, dropped: Collection[str] = ()) -> str:
        """Return synchronous_standby_names, the same on every node that has the same `dropped`.

        `came`: the `synchronous` number of standbys has been connected once; until then no commit waits for a standby.
        """
        if not (came and self.synchronous):
            return ""
        names = ", ".join(f'"{node.name}"' for node in self.databases if node.name not in dropped)
        return f"ANY {self.synchronous} ({names})"

    @property
    def majority(self) -> int:
        """How many nodes must be in sight for a decision that another part of the cluster could contradict."""
        return len(self.nodes) // 2 + 1

    def named(self, name: str) -> Node:
        """Return the node called `name`; raises UsageError that lists the nodes."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise UsageError(f"no node is called {name!r}", hint=f"cluster.yml names {known}")

    def backend(self, number: int) -> Node:
        """Return the node that pgpool-II calls backend `number` (its node id, `%d` of a hook); raises UsageError."""
        if not 0 <= number < len(self.databases):
            raise UsageError(f"no node has the id {number}", hint=f"ids go from 0 to {len(self.databases) - 1}")
        return self.databases[number]


def _of_failover(node: Node) -> list[object]:
    used = (node.failover_priority, node.nofailover) != (PRIORITY, False)
    return [node.failover_priority, node.nofailover] if used else []


def own_node(cluster: Cluster, host_names: Iterable[str], file: str) -> Node:
    """Return this machine's node by its host names; raises UsageError if no node has one of them.

    Full names are tried before their first labels, so both `pg1` and `pg1.example.org` find a node called `pg1`.
    """
    names = [name.lower() for name in host_names]
    for name in [*names, *(name.split(".", 1)[0] for name in names)]:
        for node in cluster.nodes:
            if node.name == name:
                return node
    known = ", ".join(node.name for node in cluster.nodes)
    raise UsageError(
        f"{file}: no node is called {names[0] if names else 'like this machine'}, which is this machine's host name",
        hint=f"the nodes are {known}: add this machine, or change its name with hostnamectl",
    )
