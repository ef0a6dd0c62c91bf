"""Render every file that a node needs from `Cluster`, `ClusterKey` and facts about this server.

Pure: it reads only the templates and writes nothing. Equal input gives equal bytes, once the certificates it makes are
part of the input. Of a file that other programs also write to, it renders only the cluster's part; `merged` inserts
that part into the existing file.

pgpool-II gets its own folder, whose pgpool.conf starts with an `include` of the packaged one (supported since 4.3; a
later line wins). No file that the package pgpool2 owns is edited, so its upgrades ask no questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

import jinja2

from . import certificates, libpq, paths, ports, ssh
from . import keep as keeping
from . import key as keys
from . import own as owns
from .cluster import DRAIN_SECONDS, Cluster, Node, PostgresqlCluster, Service, Tls
from .key import ClusterKey, Role

FOLDER = PurePosixPath("/etc/pgpool2/cluster")
_LEAST_CONNECTIONS = 100
_LEAST_SLOTS_KEEP_MB, _MOST_SLOTS_KEEP_MB = 128, 16 * 1024
_WAL_KEEP_MB = 512
_OWN_CONNECTIONS = 20
"""Connections for superusers, health checks, agents and administrators, beyond those of pgpool-II for clients."""
PROGRAMS = PurePosixPath("/usr/lib/pgpool2-cluster")
MACHINE_TLS = Tls("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key", None)
"""The certificate that ssl-cert creates on every Debian machine; the postgres user is in its group."""

BEGIN = "# BEGIN pgpool2-cluster: written by pgpoolctl apply"
END = "# END pgpool2-cluster"

STUBS = {
    "recovery_1st_stage": "recovery-1st-stage",
    "recovery_2nd_stage": "recovery-2nd-stage",
    "pgpool_remote_start": "pgpool-remote-start",
}
"""Files in the data directory, where pgpool_recovery looks for them, and the programs that they start."""


PGPOOL_DROP_IN = PurePosixPath("/etc/systemd/system/pgpool2.service.d/pgpool2-cluster.conf")
_SSHD_CONF = PurePosixPath("/etc/ssh/sshd_config.d/pgpool2-cluster.conf")
DROP_INS = tuple(
    f"/etc/systemd/system/{unit}.service.d/pgpool2-cluster.conf"
    for unit in ("pgpool2-cluster", "pgpool2-cluster-control@")
)
"""Drop-ins for our own units if they have to see /home."""
IN_ROOTS_FOLDERS = (str(_SSHD_CONF), str(paths.AUTHORITIES))
"""Files owned by root that are rendered outside of FOLDER, besides pgpool-II's drop-in."""
IN_OTHERS_FOLDERS = frozenset(
    {"pgpool2-cluster.conf", "pg_hba.conf", ".pgpass", ".pcppass", ".pgpoolkey", "authorized_keys", *STUBS}
)
"""Names of the files in folders of postgres: its home, its servers' configuration and their data."""


class Share(StrEnum):
    """How much of a file belongs to the cluster."""

    WHOLE = "whole"
    BLOCK = "block"
    """A block between two comments at the top; in these files the first match wins."""
    ENTRIES = "entries"
    """The lines that start with certain names, as in pool_passwd; lines with other names belong to users."""


@dataclass(frozen=True, slots=True)
class File:
    """The intended content, owner and mode of a file or of the cluster's part of it; repr() shows no content."""

    path: PurePosixPath
    content: bytes
    owner: str
    group: str
    mode: int
    share: Share = Share.WHOLE

    def __repr__(self) -> str:
        return f"File({self.path}, {len(self.content)} bytes, {self.owner}:{self.group} {self.mode:04o}, {self.share})"


@dataclass(frozen=True, slots=True, order=True)
class PgpoolVersion:
    """A version of pgpool-II without its patch level, such as 4.6; patch levels rename no parameter."""

    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Server:
    """Facts about the machine that the configuration is rendered for.

    `interface`: the interface with the node's address. `host_key`: the text of ssh_host_ed25519_key.pub.
    `standbys_came`: the `synchronous` number of standbys has been connected once. Before that, waiting for them would
    block every commit for ever, including those of applications older than the cluster.
    `dropped`: the standbys that commits do not wait for.
    `laid`: the certificates on this node. `certified`, `proven`: as in the record (record.py).
    `own_database`: every database node has the roles' own database.
    `below_home`: PostgreSQL's data, a tablespace or the home of postgres is in /home, which ProtectHome= hides.
    `wal_disk_bytes`: total size of the file system that holds pg_wal; 0 without PostgreSQL.
    `own`: parameters from the server's other configuration files. `needs`, `libraries`, `logical`: as in the record.
    """

    postgresql: PostgresqlCluster
    pgpool: PgpoolVersion
    data_directory: str
    interface: str
    host_key: str
    standbys_came: bool = True
    home: str = "/var/lib/postgresql"
    wal_disk_bytes: int = 0
    dropped: tuple[str, ...] = ()
    laid: certificates.Laid = certificates.NOTHING
    certified: str = ""
    proven: str = ""
    below_home: bool = False
    own: owns.Own = owns.NOTHING
    needs: Mapping[str, int] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    logical: bool = False
    own_database: bool = False


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
class _Peer:
    node: Node
    line: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """A template, and the path, owner and mode of the file rendered from it."""

    template: str
    path: PurePosixPath
    owner: str
    group: str
    mode: int
    share: Share = Share.WHOLE


def render(cluster: Cluster, key: ClusterKey, node: Node, server: Server, templates: Path) -> tuple[File, ...]:
    """Return the files of `node`, sorted by path: for pgpool-II, for PostgreSQL, or for both, whatever it runs."""
    values = _values(cluster, key, node, server)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - these are configuration files, not HTML, and all values are plain
    )
    environment.filters["quoted"] = owns.quoted
    files = []
    for plan in _plans(node, server):
        content = environment.get_template(plan.template).render(values).encode()
        files.append(File(plan.path, content, plan.owner, plan.group, plan.mode, plan.share))
    if Service.PGPOOL in node.runs:
        number = f"{cluster.pgpools.index(node)}\n".encode()
        files.append(File(FOLDER / "pgpool_node_id", number, "root", "root", 0o644))
        files.append(_secret(PurePosixPath(server.home) / ".pgpoolkey", f"{key.pool_key}\n"))
    if Service.POSTGRESQL in node.runs:
        stub = environment.get_template("recovery-stub.j2")
        for name, program in STUBS.items():
            content = stub.render(values, program=program).encode()
            files.append(File(PurePosixPath(server.data_directory) / name, content, "postgres", "postgres", 0o700))
    files += _certificates(cluster, key, node, server)
    files.append(File(PurePosixPath(paths.DATABASE), f"{_database(server)}\n".encode(), "root", "root", 0o644))
    files.append(_secret(FOLDER / "ssh_key", ssh.user_key(key, node).private_file))
    files.append(File(PurePosixPath(paths.FINGERPRINT), f"{key.fingerprint}\n".encode(), "root", "root", 0o644))
    certificate = ssh.host_certificate(key, node, server.host_key).encode()
    files.append(File(FOLDER / "ssh_host_ed25519_key-cert.pub", certificate, "root", "root", 0o644))
    return tuple(sorted(files, key=lambda file: file.path))


def _certificates(cluster: Cluster, key: ClusterKey, node: Node, server: Server) -> list[File]:
    """Return the node's TLS certificate, and the files with which it verifies those of other nodes."""
    trusted = certificates.authorities(key, server.laid, alone=server.proven == key.fingerprint)
    root = f"{libpq.root_certificate(cluster, server.proven)}\n"
    files = [
        File(PurePosixPath(paths.AUTHORITIES), trusted.encode(), "root", "root", 0o644),
        File(PurePosixPath(paths.ROOT_CERTIFICATE), root.encode(), "root", "root", 0o644),
    ]
    if Service.POSTGRESQL in node.runs:
        own = certificates.server(key, node, server.laid, certified=server.certified == key.fingerprint)
        files.append(_secret(PurePosixPath(paths.SERVER_CERTIFICATE), own))
    return files


def _database(server: Server) -> str:
    """Return the database that the cluster's own roles log in to."""
    return keys.DATABASE if server.own_database else "postgres"


def key_of_roles(sql: str) -> str:
    """Return the fingerprint of the cluster key that roles.sql was rendered with; "" if an older version wrote it."""
    match = re.search(r"^-- Key: ([0-9a-f]+)$", sql, re.MULTILINE)
    return match[1] if match else ""


def _secret(path: PurePosixPath, text: str) -> File:
    return File(path, text.encode(), "postgres", "postgres", 0o600)


def drop_in(postgresql: PostgresqlCluster) -> Path:
    """Return the path of the cluster's file in the conf.d of a PostgreSQL cluster."""
    return Path("/etc/postgresql", str(postgresql.major), postgresql.name, "conf.d", owns.DROP_IN)


def _plans(node: Node, server: Server) -> list[_Plan]:
    home = PurePosixPath(server.home)
    plans = [
        _Plan("pgpass.j2", home / ".pgpass", "postgres", "postgres", 0o600, Share.BLOCK),
        _Plan("authorized_keys.j2", home / ".ssh" / "authorized_keys", "postgres", "postgres", 0o600, Share.BLOCK),
        _Plan("hosts.j2", PurePosixPath(paths.HOSTS), "root", "root", 0o644),
        _Plan("known_hosts.j2", FOLDER / "known_hosts", "root", "root", 0o644),
        _Plan("ssh_config.j2", FOLDER / "ssh_config", "root", "root", 0o644),
        _Plan("sshd.conf.j2", _SSHD_CONF, "root", "root", 0o644),
    ]
    if server.below_home:
        plans += [_Plan("home.conf.j2", PurePosixPath(name), "root", "root", 0o644) for name in DROP_INS]
    if Service.PGPOOL in node.runs:
        plans += [
            _Plan("pgpool.conf.j2", FOLDER / "pgpool.conf", "root", "postgres", 0o640),
            _Plan("pool_hba.conf.j2", FOLDER / "pool_hba.conf", "root", "postgres", 0o640),
            _Plan("pcp.conf.j2", FOLDER / "pcp.conf", "root", "postgres", 0o640),
            _Plan("pool_passwd.j2", FOLDER / "pool_passwd", "postgres", "postgres", 0o600, Share.ENTRIES),
            _Plan("pcppass.j2", home / ".pcppass", "postgres", "postgres", 0o600, Share.BLOCK),
            _Plan("pg_service.conf.j2", FOLDER / "pg_service.conf", "root", "root", 0o644),
            _Plan("peers.nft.j2", FOLDER / "peers.nft", "root", "root", 0o644),
            _Plan("pgpool2.service.j2", PGPOOL_DROP_IN, "root", "root", 0o644),
        ]
    if Service.POSTGRESQL in node.runs:
        etc = PurePosixPath("/etc/postgresql") / str(server.postgresql.major) / server.postgresql.name
        plans += [
            _Plan("postgresql.conf.j2", PurePosixPath(drop_in(server.postgresql)), "postgres", "postgres", 0o644),
            _Plan("roles.sql.j2", FOLDER / "roles.sql", "postgres", "postgres", 0o600),
            _Plan("pg_hba.conf.j2", etc / "pg_hba.conf", "postgres", "postgres", 0o640, Share.BLOCK),
        ]
    return plans


def _values(cluster: Cluster, key: ClusterKey, node: Node, server: Server) -> dict[str, object]:
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
        "among_nodes": _among_nodes(cluster),
        "drain_seconds": DRAIN_SECONDS,
        "kept": _kept(cluster, server),
        "peers": [peer.hosts for peer in cluster.nodes],
        "pgpools": _pgpool_hosts(cluster),
        "peer_rules": [_nft_match(peer) for peer in cluster.nodes if peer != node],
        "standby_names": cluster.standby_names(came=server.standbys_came, dropped=server.dropped),
        "users": [_Peer(peer, ssh.user_key(key, peer).public_line) for peer in cluster.nodes if peer != node],
        "authority": ssh.host_authority(key).public_line,
        "role": Role,
        "database": _database(server),
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


def _kept(cluster: Cluster, server: Server) -> keeping.Kept:
    keep_mb = slots_keep_mb(server.wal_disk_bytes)
    connections = max(_LEAST_CONNECTIONS, cluster.pooled + _OWN_CONNECTIONS)
    least = keeping.Least(connections, _slots(cluster), keep_mb, min(_WAL_KEEP_MB, keep_mb // 2))
    return keeping.kept(server.own, least, server.needs, server.libraries, logical=server.logical)


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
    A pgpool-II on a database node does so (two_stages.py). A pgpool-II elsewhere gets that role only if no database
    node runs pgpool-II.
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


def _among_nodes(cluster: Cluster) -> bool:
    """Return whether the virtual address is in a network of nodes, for which each node already has a route.

    A second route, added with the address, would use the virtual address as source, which the other nodes reject.
    """
    virtual = cluster.virtual_ip
    return virtual is not None and any(node.ip in virtual.network for node in cluster.nodes)


def _nft_match(node: Node) -> str:
    return f"{'ip6' if node.ip.version == 6 else 'ip'} saddr {node.address}"


def merged(existing: str, file: File) -> str:
    """Return the text of a file whose text is `existing`, with the cluster's part replaced by that of `file`."""
    if file.share is Share.WHOLE:
        return file.content.decode()
    if file.share is Share.BLOCK:
        return "\n".join([BEGIN, file.content.decode().rstrip("\n"), END, ""]) + without_block(existing)
    return _with_entries(existing, file.content.decode())


def without_block(existing: str) -> str:
    """Return `existing` without the cluster's block and otherwise unchanged; a block without an end is not removed."""
    begin = existing.find(BEGIN + "\n")
    end = existing.find(END + "\n", begin)
    if begin < 0 or end < 0:
        return existing
    return existing[:begin] + existing[end + len(END) + 1 :]


def without_entries(existing: str, names: Iterable[str]) -> str:
    """Return the lines of `existing` that do not start with one of `names` and a colon."""
    gone = set(names)
    return "".join(line for line in existing.splitlines(keepends=True) if line.split(":", 1)[0] not in gone)


def _with_entries(existing: str, ours: str) -> str:
    others = without_entries(existing, (line.split(":", 1)[0] for line in ours.splitlines()))
    return ours + others
