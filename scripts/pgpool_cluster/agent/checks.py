"""Check the preconditions of a working cluster, and give the command or edit that fixes each failure."""

from __future__ import annotations

from ..definition.cluster import Service
from ..ground import paths
from ..ground.check import Check
from ..ground.errors import ClusterError
from ..machine import server
from ..node.node import Here
from ..transport.channel import ask
from ..transport.protocol import CheckRequest
from . import (
    check_archive,
    check_certificates,
    check_connections,
    check_own_files,
    check_pgpool,
    check_postgresql,
    check_replication,
)
from .checklist import Checklist


def of_cluster() -> list[Check]:
    """Return the checks of this machine's files, then those of every reachable node."""
    found = list(check_own_files.of_files())
    try:
        return [*found, *ask(CheckRequest(all=True), seconds=40).checks]
    except ClusterError as error:
        fix = f"systemctl start {paths.UNIT}"
        return [*found, Check(server.host_name(), f"{paths.UNIT} answers", False, error.message, fix)]


def unreadable(node: str) -> Check:
    """Return the failed check of a node whose answer does not contain checks."""
    fix = f"journalctl -u {paths.UNIT}, on {node}; install the same version of pgpool2-cluster on every node"
    return Check(node, "it sends its checks", False, "its answer is not a list of checks", fix)


def run(here: Here) -> list[Check]:
    """Return the checks of this node that its agent can run as postgres."""
    checks = Checklist(here.me.name, here.note.value)
    check_connections.between_nodes(here, checks)
    check_certificates.of_node(here, checks)
    fix = "add a third node to cluster.yml; one with runs: [pgpool] is enough"
    checks.add("a node may fail", len(here.cluster.nodes) != 2, "one of two nodes is not a majority", fix)
    if Service.POSTGRESQL in here.me.runs:
        check_postgresql.of_server(here, checks)
        check_replication.of_replication(here, checks)
    if here.cluster.archives(here.me):
        check_archive.of_archive(here, checks)
    if Service.PGPOOL in here.me.runs:
        check_pgpool.of_pgpool(here, checks)
        checks.checks += check_pgpool.of_known_faults(here.me.name)
    return checks.checks
