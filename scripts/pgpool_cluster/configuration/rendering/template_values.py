"""Derive the variables of the templates from the cluster, its key and the facts about this server. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ...definition import key as keys
from ...definition.cluster import DRAIN_SECONDS, Cluster, Node, Service, Tls
from ...definition.key import ClusterKey, Role
from ...ground import paths, ports
from ...machine.server_facts import PgpoolVersion, ServerFacts
from ...postgresql import libpq
from . import keep as keeping
from . import ssh
from .rendered_paths import FOLDER, MACHINE_TLS, PROGRAMS

_LEAST_CONNECTIONS = 100
_LEAST_SLOTS_KEEP_MB, _MOST_SLOTS_KEEP_MB = 128, 16 * 1024
_WAL_KEEP_MB = 512
_OWN_CONNECTIONS = 20
"""Connections for superusers, health checks, agents and administrators, beyond those of pgpool-II for clients."""


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """The names of parameters in one version of pgpool-II; a name is empty if the version has no such parameter."""

    sockets: str
    state: str
    delegate: str
    recovery_database: str
    watchdog_addresses: bool
    pcp_log: bool

    @classmethod
    def of(cls, version: PgpoolVersion) -> ParameterNames:
        """Return the names of `version` (src/config/pool_config_variables.c of 4.3.5, 4.6.1 and 4.7.2)."""
        since_44 = version >= PgpoolVersion(4, 4)
        since_47 = version >= PgpoolVersion(4, 7)
        return cls(
            sockets="unix_socket_directories" if since_44 else "socket_dir",
            state="work_dir" if since_47 else "logdir",
            delegate="delegate_ip" if since_44 else "delegate_IP",
            recovery_database="recovery_database" if since_47 else "",
            watchdog_addresses=since_47,
            pcp_log=version >= PgpoolVersion(4, 5),
        )


@dataclass(frozen=True, slots=True)
class PeerKey:
    """Another node, and the line of authorized_keys with its ssh key."""

    node: Node
    line: str


def role_database(server: ServerFacts) -> str:
    """Return the database that the cluster's own roles log in to."""
    return keys.DATABASE if server.own_database else "postgres"


def values(cluster: Cluster, key: ClusterKey, node: Node, server: ServerFacts) -> dict[str, object]:
    """Return the variables that templates can use."""
    return {
        "cluster": cluster,
        "key": key,
        "node": node,
        "server": server,
        "names": ParameterNames.of(server.pgpool),
        "tls": cluster.tls or MACHINE_TLS,
        "served": _served(cluster),
        "root": libpq.root_certificate(cluster, server.proven),
        "authorities": paths.AUTHORITIES.parent,
        "listen": _listen(cluster),
        "clients": _clients(cluster),
        "named": [peer for peer in cluster.nodes if peer.host],
        "among_nodes": cluster.virtual_among_nodes,
        "drain_seconds": DRAIN_SECONDS,
        "kept": _kept_values(cluster, server),
        "peers": [peer.hosts for peer in cluster.nodes],
        "pgpools": _pgpool_hosts(cluster),
        "peer_rules": [_nft_match(peer) for peer in cluster.nodes if peer != node],
        "standby_names": cluster.standby_names(came=server.standbys_came, dropped=server.dropped),
        "users": [PeerKey(peer, ssh.user_key(key, peer).public_line) for peer in cluster.nodes if peer != node],
        "authority": ssh.host_authority(key).public_line,
        "role": Role,
        "database": role_database(server),
        "roles": [role.value for role in Role],
        "logins": [role.value for role in logins(node)],
        "pooled": [role.value for role in pooled(cluster, node)],
        "pcp_user": keys.PCP_USER,
        "pcp_entry": keys.pcp_conf_entry(key.pcp_password),
        "home": server.home,
        "folder": FOLDER,
        "programs": PROGRAMS,
        "ports": ports,
        "sockets": paths.SOCKETS,
    }


def _kept_values(cluster: Cluster, server: ServerFacts) -> keeping.KeptValues:
    keep_mb = slots_keep_mb(server.wal_disk_bytes)
    connections = max(_LEAST_CONNECTIONS, cluster.pooled + _OWN_CONNECTIONS)
    least = keeping.Least(connections, _slots(cluster), keep_mb, min(_WAL_KEEP_MB, keep_mb // 2))
    return keeping.higher_values(server.own, least, server.needs, server.libraries, logical=server.logical)


def _slots(cluster: Cluster) -> int:
    """Return how many replication slots the cluster may need; 0 if PostgreSQL's default is enough."""
    return max(16, 2 * len(cluster.databases)) if cluster.mode.streams else 0


def _served(cluster: Cluster) -> Tls:
    """Return PostgreSQL's certificate files: those in cluster.yml if it has a `ca`, which pgpool-II verifies."""
    own = str(paths.SERVER_CERTIFICATE)
    return cluster.tls if cluster.tls is not None and cluster.tls.ca is not None else Tls(own, own, None)


def logins(node: Node) -> tuple[Role, ...]:
    """Return the roles that this node's own programs log in with.

    A node without PostgreSQL gets only the role for health checks: pgpool-II alone never needs a superuser's password.
    """
    return tuple(Role) if Service.POSTGRESQL in node.runs else (Role.CHECK,)


def pooled(cluster: Cluster, node: Node) -> tuple[Role, ...]:
    """Return the roles that this node's pgpool-II logs in with.

    In the modes with a second stage, pgpool-II itself calls the recovery function, which only superusers can execute.
    A pgpool-II on a database node does so (recovery/two_stages.py). A pgpool-II elsewhere gets that role only if no
    database node runs pgpool-II.
    """
    alone = not cluster.mode.streams and not any(Service.PGPOOL in database.runs for database in cluster.databases)
    return (*logins(node), *((Role.RECOVERY,) if alone and Role.RECOVERY not in logins(node) else ()))


def slots_keep_mb(disk_bytes: int) -> int:
    """Return how many MB of WAL slots may keep on a disk of this size: a quarter of it, from 128 MB to 16 GB.

    The result is a power of two, so that small changes of the file system's size, as on ZFS, change no configuration.
    """
    quarter = disk_bytes // 4 // 2**20
    return min(_MOST_SLOTS_KEEP_MB, max(_LEAST_SLOTS_KEEP_MB, 2 ** (quarter.bit_length() - 1) if quarter else 0))


def _listen(cluster: Cluster) -> str:
    """Return listen_addresses: pgpool-II 4.3 accepts one word, and `*` makes it exit if IPv6 is disabled."""
    versions = {node.ip.version for node in cluster.nodes} | {client.version for client in cluster.clients}
    if cluster.virtual_ip is not None:
        versions.add(cluster.virtual_ip.version)
    return "0.0.0.0" if versions == {4} else "*"  # noqa: S104 - pool_hba.conf decides


def _clients(cluster: Cluster) -> list[str]:
    """Return the address column of pool_hba.conf; it always has the nodes, whose pgpool-IIs connect to each other."""
    return list(dict.fromkeys([*(node.hosts for node in cluster.nodes), *map(str, cluster.clients)]))


def _pgpool_hosts(cluster: Cluster) -> list[str]:
    """Return the source addresses of connections from a pgpool-II."""
    hosts = [node.hosts for node in cluster.pgpools]
    if cluster.virtual_ip is not None:
        hosts.append(f"{cluster.virtual_ip.ip}/{cluster.virtual_ip.max_prefixlen}")
    return hosts


def _nft_match(node: Node) -> str:
    return f"{'ip6' if node.ip.version == 6 else 'ip'} saddr {node.address}"
