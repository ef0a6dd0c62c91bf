"""What a cluster is: cluster.yml, understood and checked.

`cluster_file.parse` makes a `Cluster`; nobody else does. Everything in it is plain (plain.py), so it can be written
into configuration files as it stands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from . import plain
from .errors import UsageError


class Mode(StrEnum):
    """How the nodes' data is kept equal; pgpool-II's names (backend_clustering_mode)."""

    STREAMING_REPLICATION = "streaming_replication"
    NATIVE_REPLICATION = "native_replication"
    SNAPSHOT_ISOLATION = "snapshot_isolation"

    @property
    def streams(self) -> bool:
        """Whether one primary feeds standbys; in the other modes every node is a primary of its own."""
        return self is Mode.STREAMING_REPLICATION


class Service(StrEnum):
    """What a node runs."""

    POSTGRESQL = "postgresql"
    PGPOOL = "pgpool"


@dataclass(frozen=True, slots=True)
class PostgresqlCluster:
    """A cluster in postgresql-common's sense: `17/main`, as pg_lsclusters shows it."""

    major: int
    name: str

    def __str__(self) -> str:
        return f"{self.major}/{self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    """One server. `id` is its place in cluster.yml from 0 on; pgpool-II counts its backends itself (`backend`).

    `host` is the host name that cluster.yml gives for its address, "" where it gives the address itself. `address` is
    then what that name was found to be (addresses.py), and the name until it was; `line` is where cluster.yml has it.
    """

    id: int
    name: str
    address: str
    port: int
    weight: float
    runs: frozenset[Service]
    host: str = ""
    line: int = field(default=0, compare=False)

    @property
    def written(self) -> str:
        """What cluster.yml says where the address is: the address, or a host name."""
        return self.host or self.address

    @property
    def slot(self) -> str:
        """The replication slot that keeps WAL for this node: slot names have no hyphen and no dot."""
        return self.name.replace("-", "_").replace(".", "_")

    @property
    def hosts(self) -> str:
        """The node as an address column of pg_hba.conf: `10.0.0.1/32`."""
        return f"{self.ip}/{self.ip.max_prefixlen}"

    @property
    def ip(self) -> plain.Address:
        """Its address; raises UsageError where it is a host name that was not looked up yet."""
        found = plain.address(self.address)
        if found is None:
            reason = f"{self.host}, the address of {self.name}, was not looked up yet"
            raise UsageError(reason, hint="pgpoolctl apply says why")
        return found


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate files that replace the machine's own, as absolute paths."""

    certificate: str
    key: str
    ca: str | None


@dataclass(frozen=True, slots=True)
class Archive:
    """How WAL is archived in the modes that do not stream: kept for `keep_hours`, complete to the last `timeout` s."""

    compress: bool = False
    keep_hours: int = 24
    timeout: int = 60


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line for a configuration file; the value as PostgreSQL or pgpool-II would take it between quotes."""

    name: str
    value: str


DRAIN_SECONDS = 3
"""What the template gives client_idle_limit_in_recovery: new clients wait for as long, so it is short."""
_START_SECONDS = 300
"""Seconds in which a recovered standby's server must have come up."""
_OUT_OF_REACH = 27
"""Seconds that a pgpool-II which is to let its sessions end may be out of reach."""
_POOL = {"num_init_children": 32, "max_pool": 4}
"""With pgpool-II's defaults."""
POOL_PORT = 9999
PCP_PORT = 9898
WATCHDOG_PORT = 9000


@dataclass(frozen=True, slots=True)
class Cluster:
    """The whole of cluster.yml. Nodes are in the file's order; `postgresql` None means the machine's newest."""

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

    @property
    def fingerprint(self) -> str:
        """What tells whether two nodes have the same cluster.yml, as far as it bears on decisions: 16 characters."""
        nodes = [[node.name, node.written, node.port, sorted(node.runs)] for node in self.nodes]
        text = json.dumps([self.mode, self.synchronous, nodes])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def archives(self, node: Node) -> bool:
        """Tell whether the node's PostgreSQL archives its WAL: where one streams, replication slots keep it instead."""
        return not self.mode.streams and Service.POSTGRESQL in node.runs

    @property
    def databases(self) -> tuple[Node, ...]:
        """The nodes that run PostgreSQL; the first of them is the one whose data founds the cluster."""
        return tuple(node for node in self.nodes if Service.POSTGRESQL in node.runs)

    @property
    def pgpools(self) -> tuple[Node, ...]:
        """The nodes that run pgpool-II."""
        return tuple(node for node in self.nodes if Service.PGPOOL in node.runs)

    @property
    def pool_port(self) -> int:
        """The TCP port on which every pgpool-II serves clients."""
        chosen = [parameter.value for parameter in self.pgpool if parameter.name == "port"]
        return int(chosen[-1]) if chosen and chosen[-1].isdigit() else POOL_PORT

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports of the cluster's own services, on whichever node; not sshd's, which others use as well."""
        servers = (node.port for node in self.databases)
        return tuple(sorted({*servers, self.pool_port, PCP_PORT, WATCHDOG_PORT}))

    @property
    def pooled(self) -> int:
        """How many connections to each PostgreSQL all pgpool-IIs together may keep: num_init_children × max_pool."""
        chosen = {parameter.name: parameter.value for parameter in self.pgpool}
        most = 1
        for name, default in _POOL.items():
            value = chosen.get(name, "")
            most *= int(value) if value.isdecimal() else default
        return most * len(self.pgpools)

    @property
    def drain_seconds(self) -> float:
        """How long sessions may go on once a second stage wants to begin: pgpool-II's client_idle_limit_in_recovery."""
        chosen = [one.value for one in self.pgpool if one.name == "client_idle_limit_in_recovery"]
        limit = chosen[-1] if chosen else ""
        return max(0.0, float(limit)) if limit.lstrip("-").isdecimal() else DRAIN_SECONDS

    @property
    def recovery_timeout(self) -> int:
        """How long, in seconds, pgpool-II waits for sessions to end, and for a recovered server to come up."""
        chosen = [one.value for one in self.pgpool if one.name == "recovery_timeout" and one.value.isdecimal()]
        if chosen:
            return int(chosen[-1])
        return _START_SECONDS if self.mode.streams else int(self.drain_seconds) + _OUT_OF_REACH

    @property
    def names_standbys(self) -> bool:
        """Whether synchronous_standby_names is the cluster's to say; cluster.yml may have it under postgresql_conf."""
        return self.mode.streams and all(one.name != "synchronous_standby_names" for one in self.postgresql_conf)

    def standby_names(self, *, came: bool, dropped: Collection[str] = ()) -> str:
        """Return synchronous_standby_names, the same on each node that has seen the same `dropped`.

        `came`: as many standbys as `synchronous` asks for have been there once; until then commits wait for nobody.
        """
        if not (came and self.synchronous):
            return ""
        names = ", ".join(f'"{node.name}"' for node in self.databases if node.name not in dropped)
        return f"ANY {self.synchronous} ({names})"

    @property
    def majority(self) -> int:
        """How many nodes must be seen before anything is decided that another part of the cluster could contradict."""
        return len(self.nodes) // 2 + 1

    def named(self, name: str) -> Node:
        """Return the node called `name`; raises UsageError that lists the known ones."""
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


def own_node(cluster: Cluster, host_names: Iterable[str], file: str) -> Node:
    """Return the node that this machine is, given its host names; raises UsageError if the file has none of them.

    A full name matches before its first label does, so `pg1` and `pg1.example.org` both find a node called `pg1`.
    """
    names = [name.lower() for name in host_names]
    for name in [*names, *(name.split(".", 1)[0] for name in names)]:
        for node in cluster.nodes:
            if node.name == name:
                return node
    known = ", ".join(node.name for node in cluster.nodes)
    raise UsageError(
        f"{file}: no node is called {names[0] if names else 'like this machine'}, which is this machine's host name",
        hint=f"the nodes are {known}: put this machine there, or change its name with hostnamectl",
    )
