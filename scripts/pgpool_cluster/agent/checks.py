"""Check the preconditions of a working cluster, and give the command or edit that fixes each failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..definition.cluster import Service
from ..ground import paths
from ..ground.check import Check
from ..ground.errors import ClusterError
from ..machine import server
from ..node.node import Here, sql_errors
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
    check_units,
    check_virtual_address,
)
from .checklist import Checklist

_Part = Callable[[Here, Checklist], None]


def of_cluster() -> list[Check]:
    """Return the checks of this machine's files, then those of every reachable node."""
    try:
        found = list(ask(CheckRequest(all=True), seconds=40).checks)
    except ClusterError as error:
        fix = f"systemctl start {paths.UNIT}"
        found = [Check(server.host_name(), f"{paths.UNIT} answers", False, error.message, fix)]
    # The files come last, because the agent may be applying a change now; they are shown first.
    return [*check_own_files.of_files(), *found]


def unreadable(node: str) -> Check:
    """Return the failed check of a node whose answer does not contain checks."""
    fix = f"journalctl -u {paths.UNIT}, on {node}; install the same version of pgpool2-cluster on every node"
    return Check(node, "it sends its checks", False, "its answer is not a list of checks", fix)


def silent(found: Sequence[Check], names: Iterable[str], answers: Collection[str]) -> list[Check]:
    """Return a failed check for each node that answers over ssh, but has sent no checks.

    `found`: the checks of this node. `answers`: the nodes that have sent checks, or that are unreachable.
    """
    reached = {check.what for check in found if check.ok}
    fix = f"on {{}}: journalctl -u {paths.UNIT}; the machine may be overloaded: uptime; iostat"
    late = [name for name in names if name not in answers and f"{name} answers over ssh" in reached]
    return [Check(name, "it sends its checks", False, "they are not complete", fix.format(name)) for name in late]


def run(here: Here) -> list[Check]:
    """Return the checks of this node that its agent can run as postgres. The subjects are checked in parallel."""
    parts = _parts(here)
    with ThreadPoolExecutor(max_workers=len(parts)) as workers:
        return list(itertools.chain.from_iterable(workers.map(lambda part: _run(here, part), parts)))


def _parts(here: Here) -> list[_Part]:
    parts: list[_Part] = [check_connections.between_nodes, check_certificates.of_node, _majority, check_units.of_units]
    if Service.POSTGRESQL in here.me.runs:
        parts += [check_postgresql.of_server, check_replication.of_replication]
    if here.cluster.archives(here.me):
        parts.append(check_archive.of_archive)
    if Service.PGPOOL in here.me.runs:
        parts += [check_pgpool.of_pgpool, check_virtual_address.of_virtual_address, check_pgpool.of_known_faults]
    return parts


def _run(here: Here, part: _Part) -> list[Check]:
    """Return the checks of one subject; an error that ends them is a failed check, and the others are not affected."""
    checks = Checklist(here.me.name, here.note.value)
    try:
        sql_errors(lambda: part(here, checks))
    except ClusterError as error:
        checks.add("all checks can run", False, error.message, error.hint)
    return checks.checks


def _majority(here: Here, checks: Checklist) -> None:
    fix = "add a third node to cluster.yml; one with runs: [pgpool] is enough"
    checks.add("a node may fail", len(here.cluster.nodes) != 2, "one of two nodes is not a majority", fix)
