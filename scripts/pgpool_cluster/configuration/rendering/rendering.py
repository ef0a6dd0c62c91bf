"""Render every file that a node needs from `Cluster`, `ClusterKey` and facts about this server.

Pure: it reads only the templates and writes nothing. Equal input gives equal bytes, once the certificates it makes are
part of the input. Of a file that other programs also write to, it renders only the cluster's part; rendered_file.py
inserts that part into the existing file.

pgpool-II gets its own folder, whose pgpool.conf starts with an `include` of the packaged one (supported since 4.3; a
later line wins). No file that the package pgpool2 owns is edited, so its upgrades ask no questions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2

from ...definition.cluster import Cluster, Node, Service
from ...definition.key import ClusterKey
from ...ground import paths
from ...machine import certificates
from ...machine import own as owns
from ...machine.server_facts import ServerFacts
from ...postgresql import libpq
from . import ssh, template_values
from .rendered_file import File, FileShare
from .rendered_paths import DROP_INS, FOLDER, PGPOOL_DROP_IN, SSHD_CONF, STUBS, drop_in


@dataclass(frozen=True, slots=True)
class _Template:
    """A template, and the path, owner and mode of the file rendered from it."""

    template: str
    path: PurePosixPath
    owner: str
    group: str
    mode: int
    share: FileShare = FileShare.WHOLE


def render(cluster: Cluster, key: ClusterKey, node: Node, server: ServerFacts, templates: Path) -> tuple[File, ...]:
    """Return the files of `node`, sorted by path: for pgpool-II, for PostgreSQL, or for both, whatever it runs."""
    values = template_values.values(cluster, key, node, server)
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
    for plan in _templates(node, server):
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
    database = f"{template_values.role_database(server)}\n".encode()
    files.append(File(PurePosixPath(paths.DATABASE), database, "root", "root", 0o644))
    files.append(_secret(PurePosixPath(paths.HEARTBEAT_KEY), _heartbeat_keys(key, server)))
    files.append(_secret(FOLDER / "ssh_key", ssh.user_key(key, node).private_file))
    files.append(File(PurePosixPath(paths.FINGERPRINT), f"{key.fingerprint}\n".encode(), "root", "root", 0o644))
    certificate = ssh.host_certificate(key, node, server.host_key).encode()
    files.append(File(FOLDER / "ssh_host_ed25519_key-cert.pub", certificate, "root", "root", 0o644))
    return tuple(sorted(files, key=lambda file: file.path))


def _certificates(cluster: Cluster, key: ClusterKey, node: Node, server: ServerFacts) -> list[File]:
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


def _heartbeat_keys(key: ClusterKey, server: ServerFacts) -> str:
    """Return the keys of the heartbeats: that of `key`, then the former one, which other nodes may still use.

    The former one is dropped when every server has a certificate of `key`, so that every node has `key`.
    """
    former = [one for one in server.heartbeat_keys if one != key.heartbeat_key][:1]
    kept = [] if server.proven == key.fingerprint else former
    return "".join(f"{one}\n" for one in (key.heartbeat_key, *kept))


def key_of_roles(sql: str) -> str:
    """Return the fingerprint of the cluster key that roles.sql was rendered with; "" if an older version wrote it."""
    match = re.search(r"^-- Key: ([0-9a-f]+)$", sql, re.MULTILINE)
    return match[1] if match else ""


def _secret(path: PurePosixPath, text: str) -> File:
    return File(path, text.encode(), "postgres", "postgres", 0o600)


def _templates(node: Node, server: ServerFacts) -> list[_Template]:
    home = PurePosixPath(server.home)
    plans = [
        _Template("pgpass.j2", home / ".pgpass", "postgres", "postgres", 0o600, FileShare.BLOCK),
        _Template(
            "authorized_keys.j2", home / ".ssh" / "authorized_keys", "postgres", "postgres", 0o600, FileShare.BLOCK
        ),
        _Template("hosts.j2", PurePosixPath(paths.HOSTS), "root", "root", 0o644),
        _Template("known_hosts.j2", FOLDER / "known_hosts", "root", "root", 0o644),
        _Template("ssh_config.j2", FOLDER / "ssh_config", "root", "root", 0o644),
        _Template("sshd.conf.j2", SSHD_CONF, "root", "root", 0o644),
        _Template("peers.nft.j2", PurePosixPath(paths.PEERS_NFT), "root", "root", 0o644),
    ]
    if server.below_home:
        plans += [_Template("home.conf.j2", PurePosixPath(name), "root", "root", 0o644) for name in DROP_INS]
    if Service.PGPOOL in node.runs:
        plans += [
            _Template("pgpool.conf.j2", FOLDER / "pgpool.conf", "root", "postgres", 0o640),
            _Template("pool_hba.conf.j2", FOLDER / "pool_hba.conf", "root", "postgres", 0o640),
            _Template("pcp.conf.j2", FOLDER / "pcp.conf", "root", "postgres", 0o640),
            _Template("pool_passwd.j2", FOLDER / "pool_passwd", "postgres", "postgres", 0o600, FileShare.ENTRIES),
            _Template("pcppass.j2", home / ".pcppass", "postgres", "postgres", 0o600, FileShare.BLOCK),
            _Template("pg_service.conf.j2", FOLDER / "pg_service.conf", "root", "root", 0o644),
            _Template("pgpool2.service.j2", PGPOOL_DROP_IN, "root", "root", 0o644),
        ]
    if Service.POSTGRESQL in node.runs:
        etc = PurePosixPath(paths.POSTGRESQL_CONFIGURATION) / str(server.postgresql.major) / server.postgresql.name
        plans += [
            _Template("postgresql.conf.j2", PurePosixPath(drop_in(server.postgresql)), "postgres", "postgres", 0o644),
            _Template("roles.sql.j2", FOLDER / "roles.sql", "postgres", "postgres", 0o600),
            _Template("pg_hba.conf.j2", etc / "pg_hba.conf", "postgres", "postgres", 0o640, FileShare.BLOCK),
        ]
    return plans
