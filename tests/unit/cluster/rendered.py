"""The rendered files of a node, for tests."""

from __future__ import annotations

import re
from pathlib import Path

from pgpool_cluster.configuration.rendering import ssh
from pgpool_cluster.configuration.rendering.rendered_file import File
from pgpool_cluster.configuration.rendering.rendered_paths import FOLDER
from pgpool_cluster.configuration.rendering.rendering import render
from pgpool_cluster.definition.cluster import Cluster, PostgresqlCluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import ClusterKey
from pgpool_cluster.ground import paths
from pgpool_cluster.machine.certificates import Laid
from pgpool_cluster.machine.network.addresses import placed
from pgpool_cluster.machine.server_facts import PgpoolVersion, ServerFacts

TEMPLATES = Path(__file__).parents[3] / "config-templates"
KEY = ClusterKey(bytes(range(32)))
SERVER = ServerFacts(
    PostgresqlCluster(17, "main"),
    PgpoolVersion(4, 6),
    "/var/lib/postgresql/17/main",
    "eth0",
    ssh.KeyPair(bytes(32), "host").public_line,
)
THREE = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}\n"
SIX = "nodes: {pg1: fd00::1, pg2: fd00::2, pg3: fd00::3}\n"
WITNESS = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, w: {address: 10.0.0.9, runs: [pgpool]}}\n"
HOME = "/var/lib/postgresql"
VERSIONS = [PgpoolVersion(4, minor) for minor in (3, 4, 5, 6, 7)]
MODES = ["streaming_replication", "native_replication", "snapshot_isolation"]


def cluster_of(text: str = THREE) -> Cluster:
    return placed(parse(text, "cluster.yml", "host"), {f"pg{number}.lan": f"10.0.0.{number}" for number in (1, 2, 3)})


def files(text: str = THREE, node: str = "pg1", server: ServerFacts = SERVER) -> dict[str, File]:
    cluster = cluster_of(text)
    return {str(file.path): file for file in render(cluster, KEY, cluster.named(node), server, TEMPLATES)}


def text_of(path: str, made: dict[str, File]) -> str:
    return made[path].content.decode()


def laid_by(made: dict[str, File]) -> Laid:
    """Return the certificates on a node with these files."""
    return Laid(text_of(str(paths.AUTHORITIES), made), text_of(str(paths.SERVER_CERTIFICATE), made))


def settings_of(text: str) -> dict[str, str]:
    """Return the parameters of a pgpool.conf or postgresql.conf; the last line wins, as in both programs."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+) = (?:'(.*)'|(\S+))", line)
        assert match or not line or line.startswith("#"), line
        if match:
            found[match[1]] = match[2] if match[2] is not None else match[3]
    return found


def pgpool_conf(text: str = THREE, node: str = "pg1", server: ServerFacts = SERVER) -> dict[str, str]:
    return settings_of(text_of(f"{FOLDER}/pgpool.conf", files(text, node, server)))


def postgresql_conf(text: str = THREE, node: str = "pg1") -> dict[str, str]:
    return settings_of(text_of("/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf", files(text, node)))
