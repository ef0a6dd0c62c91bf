"""Check this node's pgpool-II and the installed version of it."""

from __future__ import annotations

from ...configuration.users import Users
from ...ground import paths, ports
from ...ground.check import Check
from ...ground.errors import OperationError
from ...machine import known_faults, pgpool, units
from ...node.node import Here
from ...operations.accounts import logins
from .checklist import Checklist

_PCP_SECONDS = 1.0


def of_known_faults(here: Here, checks: Checklist) -> None:
    """Check the installed pgpool2 for known faults.

    A missing patch that the cluster relies on is a failure; an advisory is a note.
    """
    installed = known_faults.installed()
    if installed is None:
        return
    name, version, lacks = here.me.name, installed.version, known_faults.missing(installed)
    found = [
        Check(name, f"pgpool2 {version} has the patch {patch}", False, f"without it, {without}", known_faults.FIX)
        for patch, without in lacks
    ]
    if not lacks:
        found.append(Check(name, "pgpool2 has the patches that the cluster requires", True))
    for advisory in known_faults.advisories(installed):
        advice = known_faults.ADVICE if installed.own else known_faults.ADVICE_DEBIAN
        found.append(Check(name, f"pgpool2 {version} has known advisories", True, advisory, advice, note=True))
    checks.checks += found


def _refused_pcp(here: Here) -> str:
    """Return why pgpool-II, which serves clients, rejects this node's pcp password; "" if it does not."""
    if not pgpool.listens(pgpool.port(here.cluster)):
        return ""
    try:
        pgpool.pcp("pcp_node_count", seconds=_PCP_SECONDS)
    except OperationError as error:
        return error.message if "authentication failed" in error.message else ""
    return ""


def of_pgpool(here: Here, checks: Checklist) -> None:
    """Check whether pgpool-II runs as configured, and to which nodes it sends clients."""
    facts = here.look()
    state = units.state(paths.PGPOOL_UNIT)
    why = here.note.value or f"the unit is {state.active}"
    fix = checks.hint(f"systemctl status {paths.PGPOOL_UNIT}")
    if facts.pgpool is None and state.active == "active" and (refused := _refused_pcp(here)):
        checks.add("pgpool-II accepts the pcp password", False, refused, "pgpoolctl apply")
        return
    checks.add("pgpool-II runs", facts.pgpool is not None, why, fix)
    if facts.pgpool is None:
        return
    checks.add(
        "pgpool-II runs with the applied cluster.key",
        not pgpool.of_another_key(facts.key),
        "it was started with another key",
        "pgpoolctl apply on the other nodes; the agent then restarts pgpool-II",
    )
    entries = Users.load(paths.USERS).entries
    checks.add_faults("pgpool-II can read the passwords of its users", logins.unreadable(entries))
    if here.cluster.uses_watchdog:
        _of_quorum(checks, quorum=facts.pgpool.quorum)
    for name, belief in facts.pgpool.backends.items():
        checks.add(
            f"pgpool-II sends clients to {name}",
            belief == "up",
            f"it is {belief}",
            f"pgpoolctl attach {name}, or pgpoolctl recover {name}",
        )


def _of_quorum(checks: Checklist, *, quorum: bool) -> None:
    checks.add(
        "the watchdog has its quorum",
        quorum,
        "too few pgpool-II processes reach each other",
        f"start pgpool-II on more nodes; {ports.WATCHDOG}/tcp and {ports.HEARTBEAT}/udp must be open between them",
    )
