"""Predict what an installation would do to an existing server, before it changes anything. Pure; before.py has the I/O.

1. Input: the server's current state and the cluster's configuration for it (existing_server.py). Output: findings
   (finding.py).
2. kept: a value of the server that is higher than the cluster's or overrides it, and everything that stays the same.
3. changed, restart: a parameter with its old and new value, a pg_hba line that loses its effect, a new role.
4. missing: something the cluster needs and the machine lacks. Nothing is lost, so the installation proceeds.
5. refused: something would be lost, or PostgreSQL would not start again; `fix` is the line to write.
6. While anything is refused, `apply` writes nothing on a new node, and the agent says so. `check --before` shows all.
7. A parameter that cluster.yml sets under postgresql_conf is the administrator's decision. It is refused only if
   PostgreSQL would not start with it.
8. A server that is not running is judged by its files alone: less is known then, and nothing is guessed.
9. Rendering uses the higher of two values (keep.py), so a rehearsal sees that value as kept.
10. `startable.unstartable` runs again before the one restart, with the values that the server would then start with.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import rehearsal_hba, rehearsal_settings
from .existing_server import ExistingServer, PlannedConfiguration, values_after
from .finding import Finding, Kind
from .startable import unstartable


def findings(seen: ExistingServer, plan: PlannedConfiguration) -> list[Finding]:
    """Return all findings, the refused ones first."""
    subjects = (
        _included,
        _readable,
        _faults,
        _startable,
        rehearsal_settings.slots_cut_short,
        rehearsal_settings.precious,
        rehearsal_settings.parameters,
        rehearsal_settings.archive,
        rehearsal_hba.rules,
        _roles,
        _machine,
    )
    every = [finding for subject in subjects for finding in subject(seen, plan)]
    order = list(reversed(Kind))
    return sorted(dict.fromkeys(every), key=lambda finding: order.index(finding.kind))


def _included(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    if not seen.own.includes:
        what = "it does not include conf.d, so the cluster's parameters are not read"
        fix = f"add the line include_dir = 'conf.d' at the end of {plan.folder}/postgresql.conf"
        yield Finding(Kind.REFUSED, "postgresql.conf", what, fix)


def _readable(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Refuse a server that answers no queries, because it may have settings that must be kept."""
    if seen.silent:
        fix = f"add local all postgres peer as the first line of {plan.folder}/pg_hba.conf; pg_ctlcluster reload"
        yield Finding(Kind.REFUSED, "PostgreSQL", f"it is running, but postgres cannot query it: {seen.silent}", fix)
    if not seen.home:
        fix = "CREATE DATABASE postgres, or ALTER DATABASE postgres ALLOW_CONNECTIONS true"
        yield Finding(Kind.REFUSED, "the database postgres", "it does not exist, or accepts no connections", fix)


def _faults(seen: ExistingServer, _: PlannedConfiguration) -> Iterator[Finding]:
    for fault in seen.faults:
        what = f"PostgreSQL would not start again: {fault}"
        yield Finding(Kind.REFUSED, "postgresql.conf", what, "correct that file")


def _startable(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    yield from unstartable(values_after(seen, plan), seen.slots, seen.prepared, plan.file)


def _roles(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    for name, what in plan.roles.items():
        is_there = name in seen.roles
        yield Finding(Kind.CHANGED, "roles", f"{name}, {what}, {'gets another password' if is_there else 'is created'}")


def _machine(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    for port, program in seen.held.items():
        if port in plan.ports:
            what = f"{port}, for {plan.ports[port]}, is taken by {program}"
            yield Finding(Kind.MISSING, "ports", what, f"stop {program}, or set another port in {plan.file}")
    for name in seen.lacking:
        yield Finding(Kind.MISSING, "extensions", f"{name} is not installed", "apt install postgresql-N-pgpool2")
    for fault in seen.kept_out:
        yield Finding(Kind.MISSING, "login over ssh", fault.why, fault.fix)
    if seen.free_bytes is not None:
        size = f"a copy of its data needs {seen.data_bytes >> 20} MB on every other node; " if seen.data_bytes else ""
        yield Finding(Kind.KEPT, "disk", f"{size}{seen.free_bytes >> 20} MB are free here")
