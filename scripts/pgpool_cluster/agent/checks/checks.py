"""Check the preconditions of a working cluster, and give the command or edit that fixes each failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ...definition.cluster import Service
from ...ground import paths
from ...ground.check import Check
from ...ground.errors import ClusterError
from ...machine import server
from ...node.node import Here, sql_errors
from ...transport.channel import ask
from ...transport.lines import OddAnswerError
from ...transport.protocol import VERSIONS_DIFFER, CheckAnswer, CheckRequest
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


def of_others(
    found: Sequence[Check], names: Iterable[str], answers: Mapping[str, CheckAnswer | ClusterError]
) -> list[Check]:
    """Return the checks that the other nodes have sent, and a failed one for each node that should have sent some.

    `found`: the checks of this node, which include a failed one for a node that does not answer over ssh.
    """
    reached = {check.what for check in found if check.ok}
    others: list[Check] = []
    for name in names:
        answer = answers.get(name)
        if isinstance(answer, CheckAnswer):
            others += answer.checks
        elif isinstance(answer, OddAnswerError):
            others.append(_unsent(name, "its answer is not a list of checks", VERSIONS_DIFFER))
        elif f"{name} answers over ssh" in reached:
            why = answer.message if answer is not None else "it is late"
            others.append(_unsent(name, why, "its machine may be overloaded: uptime; iostat"))
    return others


def _unsent(node: str, why: str, fix: str) -> Check:
    return Check(node, "it sends its checks", False, why, f"journalctl -u {paths.UNIT}, on {node}; {fix}")


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
