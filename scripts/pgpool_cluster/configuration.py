"""Every file that a node needs, rendered from `Cluster`, `ClusterKey` and facts of this server.

Pure: equal input gives equal bytes, once the certificates that it makes are part of the input; nothing is read but the
templates, nothing is written. Files that others write in, too, are rendered as the cluster's part of them; `merged`
puts that part into what is there.

pgpool-II gets a folder of its own, whose pgpool.conf begins with `include` of the packaged one (pgpool-II has it since
4.3; a later line wins): nothing that pgpool2 owns is edited, so no upgrade of it asks anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

import jinja2

from . import certificates, libpq, paths, ssh
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
"""For superusers, health checks, agents and administrators, beside those that pgpool-II keeps for clients."""
PROGRAMS = PurePosixPath("/usr/lib/pgpool2-cluster")
MACHINE_TLS = Tls("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key", None)
"""What ssl-cert makes for every Debian machine; the postgres user is in its group."""

BEGIN = "# BEGIN pgpool2-cluster: written by pgpoolctl apply"
END = "# END pgpool2-cluster"

STUBS = {
    "recovery_1st_stage": "recovery-1st-stage",
    "recovery_2nd_stage": "recovery-2nd-stage",
    "pgpool_remote_start": "pgpool-remote-start",
}
"""Names in the data directory, where pgpool_recovery looks for them, and the programs behind them."""


DROP_INS = tuple(
    f"/etc/systemd/system/{unit}.service.d/pgpool2-cluster.conf"
    for unit in ("pgpool2-cluster", "pgpool2-cluster-control@")
)
"""For our own units, where they have to see /home."""
IN_ROOTS_FOLDERS = ("/etc/ssh/sshd_config.d/pgpool2-cluster.conf", str(paths.AUTHORITIES))
"""Files of root's that are rendered outside of FOLDER, beside pgpool-II's unit."""
IN_OTHERS_FOLDERS = frozenset(
    {"pgpool2-cluster.conf", "pg_hba.conf", ".pgpass", ".pcppass", ".pgpoolkey", "authorized_keys", *STUBS}
)
"""Names of the files in postgres' folders: its home, its servers' configuration and their data."""


class Share(StrEnum):
    """How much of a file is the cluster's."""

    WHOLE = "whole"
    BLOCK = "block"
    """A block between two comments at the top, where the first match wins."""
    ENTRIES = "entries"
    """The lines of some names, as in pool_passwd, where other names are users'."""


@dataclass(frozen=True, slots=True)
class File:
    """A file, or the cluster's share of it, as it is to be; repr() shows no content."""

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
    """Version of pgpool-II without its patch level, which renames nothing: 4.6."""

    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Server:
    """Facts of the machine that configuration is rendered for.

    `interface` is the one that has the node's address; `host_key` the text of ssh_host_ed25519_key.pub.
    `standbys_came`: as many standbys as `synchronous` asks for have been there once. Until then a commit would wait for
    them without end, also those of the applications that were there before the cluster.
    `dropped`: the standbys that its commits do not wait for.
    `laid`: the certificates that are here. `certified`, `proven`: as in the record (record.py).
    `own_database`: every database node has the roles' own database.
    `below_home`: PostgreSQL's data, a tablespace or the home of postgres is in /home, which units are kept out of.
    `wal_disk_bytes`: size of the file system that has pg_wal, however full it is; 0 where there is no PostgreSQL.
    `own`: what its other configuration files say. `needs`, `libraries`, `logical`: as in the record.
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
    """What pgpool-II calls things in one version; an empty name means that it has no such parameter."""

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
    """A template with where its result goes."""

    template: str
    path: PurePosixPath
    owner: str
    group: str
    mode: int
    share: Share = Share.WHOLE


def render(cluster: Cluster, key: ClusterKey, node: Node, server: Server, templates: Path) -> tuple[File, ...]:
    """Return the files of `node`, sorted by path: those of pgpool-II, of PostgreSQL, or both, as it runs them."""
    values = _values(cluster, key, node, server)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - configuration files, no HTML; all values are plain
    )
    environment.filters["quoted"] = owns.quoted
    files = [
        File(plan.path, environment.get_template(plan.template).render(values).encode(), plan.owner, plan.group,
             plan.mode, plan.share)
        for plan in _plans(node, server)
    ]  # fmt: skip
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
    """Return what the nodes prove themselves with, and what they are checked with."""
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
    """Return the path of the cluster's parameters among the files of a PostgreSQL."""
    return Path("/etc/postgresql", str(postgresql.major), postgresql.name, "conf.d", owns.DROP_IN)


def _plans(node: Node, server: Server) -> list[_Plan]:
    home = PurePosixPath(server.home)
    plans = [
        _Plan("pgpass.j2", home / ".pgpass", "postgres", "postgres", 0o600, Share.BLOCK),
        _Plan("authorized_keys.j2", home / ".ssh" / "authorized_keys", "postgres", "postgres", 0o600, Share.BLOCK),
        _Plan("hosts.j2", PurePosixPath(paths.HOSTS), "root", "root", 0o644),
        _Plan("known_hosts.j2", FOLDER / "known_hosts", "root", "root", 0o644),
        _Plan("ssh_config.j2", FOLDER / "ssh_config", "root", "root", 0o644),
        _Plan("sshd.conf.j2", PurePosixPath("/etc/ssh/sshd_config.d/pgpool2-cluster.conf"), "root", "root", 0o644),
    ]
    if server.below_home:
        plans += [_Plan("home.conf.j2", PurePosixPath(name), "root", "root", 0o644) for name in DROP_INS]
    if Service.PGPOOL in node.runs:
        unit = PurePosixPath("/etc/systemd/system/pgpool2.service.d/pgpool2-cluster.conf")
        plans += [
            _Plan("pgpool.conf.j2", FOLDER / "pgpool.conf", "root", "postgres", 0o640),
            _Plan("pool_hba.conf.j2", FOLDER / "pool_hba.conf", "root", "postgres", 0o640),
            _Plan("pcp.conf.j2", FOLDER / "pcp.conf", "root", "postgres", 0o640),
            _Plan("pool_passwd.j2", FOLDER / "pool_passwd", "postgres", "postgres", 0o600, Share.ENTRIES),
            _Plan("pcppass.j2", home / ".pcppass", "postgres", "postgres", 0o600, Share.BLOCK),
            _Plan("pg_service.conf.j2", FOLDER / "pg_service.conf", "root", "root", 0o644),
            _Plan("peers.nft.j2", FOLDER / "peers.nft", "root", "root", 0o644),
            _Plan("pgpool2.service.j2", unit, "root", "root", 0o644),
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
    """Return what the templates may name."""
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
    }


def _kept(cluster: Cluster, server: Server) -> keeping.Kept:
    keep_mb = slots_keep_mb(server.wal_disk_bytes)
    connections = max(_LEAST_CONNECTIONS, cluster.pooled + _OWN_CONNECTIONS)
    least = keeping.Least(connections, _slots(cluster), keep_mb, min(_WAL_KEEP_MB, keep_mb // 2))
    return keeping.kept(server.own, least, server.needs, server.libraries, logical=server.logical)


def _slots(cluster: Cluster) -> int:
    """Return how many replication slots the cluster may need; 0 where PostgreSQL's own number is enough."""
    return max(16, 2 * len(cluster.databases)) if cluster.mode.streams else 0


def _served(cluster: Cluster) -> Tls:
    """Return what PostgreSQL shows: pgpool-II checks it with `ca` where cluster.yml has one, so it is of that then."""
    own = str(paths.SERVER_CERTIFICATE)
    return cluster.tls if cluster.tls is not None and cluster.tls.ca is not None else Tls(own, own, None)


def logins(node: Node) -> tuple[Role, ...]:
    """Return the roles that this node's own programs log in with: without PostgreSQL, none that could change anything.

    No node learns a superuser's password for its pgpool-II alone.
    """
    return tuple(Role) if Service.POSTGRESQL in node.runs else (Role.CHECK,)


def pooled(cluster: Cluster, node: Node) -> tuple[Role, ...]:
    """Return the roles that this node's pgpool-II logs in with.

    In the modes with a second stage pgpool-II itself calls the recovery function, which is for superusers only: that of
    a database node does (two_stages.py), so a pgpool-II elsewhere knows that role only where no database node runs one.
    """
    alone = not cluster.mode.streams and not any(Service.PGPOOL in database.runs for database in cluster.databases)
    return (*logins(node), *((Role.RECOVERY,) if alone and Role.RECOVERY not in logins(node) else ()))


def slots_keep_mb(disk_bytes: int) -> int:
    """Return how many MB of WAL slots may keep on a disk of this size: a quarter of it, from 128 MB to 16 GB.

    It is a power of two, so that a file system whose size changes a little, as ZFS' does, changes no configuration.
    """
    quarter = disk_bytes // 4 // 2**20
    return min(_MOST_SLOTS_KEEP_MB, max(_LEAST_SLOTS_KEEP_MB, 2 ** (quarter.bit_length() - 1) if quarter else 0))


def _listen(cluster: Cluster) -> str:
    """Return listen_addresses: pgpool-II 4.3 takes one word, and ends where IPv6 is off and `*` wants it."""
    versions = {node.ip.version for node in cluster.nodes} | {client.version for client in cluster.clients}
    if cluster.virtual_ip is not None:
        versions.add(cluster.virtual_ip.version)
    return "0.0.0.0" if versions == {4} else "*"  # noqa: S104 - pool_hba.conf decides


def _clients(cluster: Cluster) -> list[str]:
    """Return the address column of pool_hba.conf: the nodes always, since pgpool-IIs ask each other."""
    return list(dict.fromkeys([*(node.hosts for node in cluster.nodes), *map(str, cluster.clients)]))


def _pgpool_hosts(cluster: Cluster) -> list[str]:
    """Return where a pgpool-II's connections come from."""
    hosts = [node.hosts for node in cluster.pgpools]
    if cluster.virtual_ip is not None:
        hosts.append(f"{cluster.virtual_ip.ip}/{cluster.virtual_ip.max_prefixlen}")
    return hosts


def _among_nodes(cluster: Cluster) -> bool:
    """Tell whether the virtual address is in a network of nodes: they have a way there, and must keep it.

    A route that came with the address would have it as its source, and the other nodes let in the nodes' own only.
    """
    virtual = cluster.virtual_ip
    return virtual is not None and any(node.ip in virtual.network for node in cluster.nodes)


def _nft_match(node: Node) -> str:
    return f"{'ip6' if node.ip.version == 6 else 'ip'} saddr {node.address}"


def merged(existing: str, file: File) -> str:
    """Return the whole text of a file in which `existing` is there and the cluster's share is to be as in `file`."""
    if file.share is Share.WHOLE:
        return file.content.decode()
    if file.share is Share.BLOCK:
        return "\n".join([BEGIN, file.content.decode().rstrip("\n"), END, ""]) + without_block(existing)
    return _with_entries(existing, file.content.decode())


def without_block(existing: str) -> str:
    """Return `existing` without the cluster's block; all other bytes stay. A block without its end is left alone."""
    begin = existing.find(BEGIN + "\n")
    end = existing.find(END + "\n", begin)
    if begin < 0 or end < 0:
        return existing
    return existing[:begin] + existing[end + len(END) + 1 :]


def without_entries(existing: str, names: Iterable[str]) -> str:
    """Return the lines of `existing` that are not of one of `names`."""
    gone = set(names)
    return "".join(line for line in existing.splitlines(keepends=True) if line.split(":", 1)[0] not in gone)


def _with_entries(existing: str, ours: str) -> str:
    others = without_entries(existing, (line.split(":", 1)[0] for line in ours.splitlines()))
    return ours + others
