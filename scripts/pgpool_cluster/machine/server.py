"""Facts about this machine: its host name, its PostgreSQL servers, its pgpool-II, its addresses."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..definition import cluster_file
from ..definition.cluster import Cluster, Node, PostgresqlCluster, Service, own_node
from ..definition.document import Place
from ..ground import files, paths, plain, programs
from ..ground.errors import ServerError, UsageError
from . import own
from .network import addresses
from .server_facts import PgpoolVersion, ServerFacts

_VERSION, _NAME, _PORT, _DATA, _LOG = 0, 1, 2, 5, -1
"""Columns of pg_lsclusters(1), whose JSON output needs an optional package. `_DATA` may contain spaces."""
_LIST_SECONDS = 10.0
_FIRST_WITH_IPV6 = PgpoolVersion(4, 6)
"""The watchdog calls getaddrinfo() since 4.6.0; before that, it used AF_INET (watchdog.c and wd_heartbeat.c)."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A PostgreSQL server that postgresql-common manages."""

    name: PostgresqlCluster
    port: int
    data: Path

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"postgresql@{self.name.major}-{self.name.name}.service"

    @property
    def package(self) -> str:
        """The Debian package whose upgrade restarts it."""
        return f"postgresql-{self.name.major}"

    @property
    def configuration(self) -> Path:
        """Its configuration folder in /etc."""
        return paths.POSTGRESQL_CONFIGURATION / str(self.name.major) / self.name.name

    def program(self, name: str) -> str:
        """Return the path of one of its programs."""
        return str(paths.POSTGRESQL_PROGRAMS / str(self.name.major) / "bin" / name)


def host_name() -> str:
    """Return this machine's host name from the kernel, in lower case."""
    return socket.gethostname().lower()


def this_node() -> tuple[Cluster, Node]:
    """Return the cluster in cluster.yml, and this machine's node; raises ClusterError.

    Host names get the addresses that `apply` wrote last, or none before the first time. No name server is queried.
    """
    cluster = addresses.placed(cluster_file.load(paths.CLUSTER_YML, host_name()), addresses.laid())
    return cluster, own_node(cluster, [host_name()], str(paths.CLUSTER_YML))


def this_node_looked_up() -> tuple[Cluster, Node, tuple[str, ...]]:
    """Return the cluster and this machine's node with host names resolved now, within 10 s; raises ClusterError.

    The third value has notes on the names that did not resolve.
    """
    cluster = cluster_file.load(paths.CLUSTER_YML, host_name())
    me = own_node(cluster, [host_name()], str(paths.CLUSTER_YML))
    found = addresses.look_up(node.host for node in cluster.nodes if node.host)
    settled = addresses.settle(cluster, me, found, addresses.laid(), addresses.THIS)
    return settled.cluster, settled.cluster.named(me.name), settled.notes


def as_postgres() -> list[str]:
    """Return the command prefix that runs a program as postgres; as root, it would follow any link in postgres' files.

    The program gets no environment of root, which other processes of postgres could read.
    """
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={paths.POSTGRES}", f"--regid={paths.POSTGRES}", "--init-groups", "--reset-env", "--"]


def _listed() -> str:
    """Return the output of pg_lsclusters; if it blocks on a FIFO among its files, the error names that FIFO."""
    try:
        return programs.run([*as_postgres(), "pg_lsclusters", "--no-header"], seconds=_LIST_SECONDS)
    except ServerError as error:
        odd = ["find", str(paths.POSTGRESQL_CONFIGURATION), "!", "-type", "f", "!", "-type", "d", "!", "-type", "l"]
        for path in programs.run([*as_postgres(), *odd]).splitlines():
            raise ServerError(f"{path} is not a plain file", hint=f"rm {path}; pgpoolctl apply") from error
        raise


def instances(port: int) -> list[Instance]:
    """Return the PostgreSQL servers of this machine, the newest major first.

    Raises UsageError if no server has a suitable name, or the one with `port` does not; ServerError if pg_lsclusters
    fails.
    """
    found, odd = _parsed_list()
    at_port = [row for row in odd if row[_PORT] == str(port)]
    if odd and not found:
        raise _oddly_named(odd[0], found)
    if at_port and all(one.port != port for one in found):
        raise _oddly_named(at_port[0], found)
    return found


def _oddly_named(row: Sequence[str], others: Sequence[Instance]) -> UsageError:
    major, name = row[_VERSION], row[_NAME]
    new = re.sub(r"[^a-z0-9_-]", "-", name.lower())
    while f"{major}/{new}" in [str(one.name) for one in others]:
        new += "2"
    hint = f"pg_renamecluster {major} {name} {new}: use lower-case letters, digits, _ and -"
    return UsageError(f"PostgreSQL {major}/{name} has a name that pgpool-II's recovery cannot handle", hint=hint)


def _parsed_list() -> tuple[list[Instance], list[list[str]]]:
    """Return the servers, and the rows of pg_lsclusters with unsuitable names."""
    rows = [line.split() for line in _listed().splitlines()]
    found = [
        Instance(PostgresqlCluster(int(row[_VERSION]), row[_NAME]), int(row[_PORT]), Path(" ".join(row[_DATA:_LOG])))
        for row in rows
        if len(row) > _DATA + 1
        and re.fullmatch(r"[1-9][0-9]", row[_VERSION])
        and plain.is_cluster_name(row[_NAME])
        and re.fullmatch(r"[0-9]{1,5}", row[_PORT])
    ]
    odd = [row for row in rows if len(row) > _PORT and not plain.is_cluster_name(row[_NAME])]
    return sorted(found, key=lambda one: (-one.name.major, one.name.name != "main", one.name.name)), odd


def choose_instance(cluster: Cluster, found: Sequence[Instance], node: Node) -> Instance:
    """Return the node's server; raises UsageError if there is none or it has another port.

    If cluster.yml names no server, it is the one with the node's port: a new Debian release installs a second server
    beside the one in use, and pg_upgradecluster moves the port.
    """
    wanted = cluster.postgresql
    shown = ", ".join(str(one.name) for one in found)
    if not found:
        majors = paths.POSTGRESQL_PROGRAMS.glob("[1-9][0-9]")
        installed = sorted((int(path.name) for path in majors), reverse=True)
        command = f"pg_createcluster {installed[0]} main" if installed else "apt install postgresql"
        raise UsageError(
            "this machine has no PostgreSQL server", hint=f"{command}; the agent then continues automatically"
        )
    suitable = sorted(found, key=lambda one: one.port != node.port)
    instance = next((one for one in suitable if wanted is None or one.name == wanted), None)
    if instance is None:
        hint = f"pg_lsclusters shows {shown}: write that into cluster.yml, or create the other with pg_createcluster"
        raise UsageError(f"{paths.CLUSTER_YML}: this machine has no PostgreSQL {wanted}", hint=hint)
    if instance.port != node.port:
        hint = f"{node.name}: {{address: {node.written}, port: {instance.port}}} in cluster.yml, or change its port"
        reason = f"PostgreSQL {instance.name} has port {instance.port}, not {node.port}"
        raise UsageError(f"{paths.CLUSTER_YML}: {reason}", hint=hint)
    return _with_plain_data(instance)


def _with_plain_data(instance: Instance) -> Instance:
    if not plain.is_path(str(instance.data)):
        hint = (
            "move it to a path of letters, digits and ._+@-, and set data_directory: pgpool-II's recovery requires it"
        )
        reason = f"PostgreSQL {instance.name} has its data in '{instance.data}', which is not a plain path"
        raise UsageError(reason, hint=hint)
    return instance


def _instance(cluster: Cluster, node: Node, upgrading: str) -> Instance:
    found = instances(node.port)
    later = next((one for one in found if str(one.name) == upgrading), None)
    return _with_plain_data(later) if later else choose_instance(cluster, found, node)


def pgpool_version() -> PgpoolVersion:
    """Return the version of the installed pgpool-II; raises ServerError."""
    ended = programs.attempt([str(paths.SBIN / "pgpool"), "--version"])
    text = ended.stdout or ended.stderr
    match = re.search(r"version (\d+)\.(\d+)", text)
    if match is None:
        raise ServerError(f"pgpool --version prints {text.strip()!r}", hint="apt install pgpool2")
    return PgpoolVersion(int(match[1]), int(match[2]))


def interface_of(address: str) -> str:
    """Return the network interface that has `address`, "" if none has it; raises ServerError."""
    listed: list[dict[str, Any]] = json.loads(programs.run(["ip", "-json", "address"]))
    for link in listed:
        if any(str(entry.get("local")) == address for entry in link.get("addr_info", [])):
            return str(link["ifname"])
    return ""


def interface_for_clients(cluster: Cluster, node: Node) -> str:
    """Return the interface for the virtual address, "" if this node does not need one; raises UsageError."""
    if cluster.virtual_ip is None or node not in cluster.pgpools or len(cluster.pgpools) == 1:
        return ""
    found = interface_of(node.address)
    if not found:
        raise Place(str(paths.CLUSTER_YML), node.line).error(
            f"no interface of this machine has the address of {node.name}, {node.address}: none can carry virtual_ip",
            hint="ip address lists its addresses; correct one or the other, then run pgpoolctl apply",
        )
    return found


def refuse_ipv6_watchdog(cluster: Cluster, version: PgpoolVersion) -> None:
    """Raise UsageError if a node has an IPv6 address and the watchdog of this pgpool-II supports only IPv4."""
    node = next((node for node in cluster.pgpools if node.ip.version == 6), None)
    if node is not None and cluster.uses_watchdog and version < _FIRST_WITH_IPV6:
        raise Place(str(paths.CLUSTER_YML), node.line).error(
            f"{node.name} has an IPv6 address; the watchdog of pgpool-II {version.major}.{version.minor} needs IPv4",
            hint="apt install pgpool2 4.6 or later on every node, or give the nodes IPv4 addresses",
        )


def facts(
    cluster: Cluster, node: Node, *, standbys_came: bool, dropped: tuple[str, ...] = (), upgrading: str = ""
) -> ServerFacts:
    """Return the facts for rendering the configuration; raises UsageError or ServerError if something is missing.

    `upgrading`: the new PostgreSQL server during a major upgrade, "" otherwise.
    """
    instance = _instance(cluster, node, upgrading) if Service.POSTGRESQL in node.runs else None
    if not paths.HOST_KEY.exists():
        programs.run(["ssh-keygen", "-A"])
    version = pgpool_version() if Service.PGPOOL in node.runs else PgpoolVersion(0, 0)
    if Service.PGPOOL in node.runs:
        refuse_ipv6_watchdog(cluster, version)
    return ServerFacts(
        postgresql=instance.name if instance else PostgresqlCluster(0, "none"),
        pgpool=version,
        data_directory=str(instance.data) if instance else "",
        interface=interface_for_clients(cluster, node),
        host_key=paths.HOST_KEY.read_text(encoding="ascii", errors="replace"),
        standbys_came=standbys_came,
        dropped=dropped,
        home=str(paths.HOME),
        wal_disk_bytes=size_of_disk(instance.data / "pg_wal") if instance else 0,
        own=own.of_server(instance.configuration) if instance else own.NOTHING,
    )


def size_of_disk(path: Path) -> int:
    """Return the size in bytes of the file system of `path`, or of its nearest existing ancestor."""
    there = next(folder for folder in (path, *path.parents) if files.kind(folder))
    return shutil.disk_usage(there).total
