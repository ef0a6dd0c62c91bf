"""Find the parameters that need a restart of PostgreSQL, in which order the nodes restart, and restart this one."""

from __future__ import annotations

from dataclasses import dataclass

from ..configuration.rehearsal import startable
from ..decision import restart_plan
from ..decision.facts import matching
from ..ground import log
from ..ground.errors import OperationError
from ..ground.waiting import poll
from ..machine import units
from ..node.node import Here
from ..postgresql import postgresql as pg
from ..transport.protocol import PendingAnswer

INCLUDE_HINT = "add the line include_dir = 'conf.d' at the end of {folder}/postgresql.conf"
_RELOAD_SECONDS = 10.0
"""Seconds within which a server must have reloaded its configuration."""
_SLOTS = "SELECT slot_name::text, slot_type = 'logical' FROM pg_replication_slots"
_WAITING = """
SELECT name FROM pg_settings
WHERE pending_restart
   OR (context = 'postmaster' AND name IN (SELECT name FROM pg_file_settings WHERE error IS NOT NULL))
ORDER BY name
"""
"""The parameters that a reload has marked as pending, and those that the next reload will mark."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Parameters that a restart would change; `changes`: old and new values of those that a standby must match."""

    names: tuple[str, ...]
    changes: dict[str, tuple[int, int]]
    unit: str
    streams: bool = True

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def fix(self) -> str:
        """The command, and the order of nodes."""
        others = tuple(name for name in self.names if name not in self.changes)
        if not self.streams:
            return f"systemctl restart {self.unit}; node by node"
        order = matching.order(self.changes, others)
        return f"{restart_plan.PENDING} on one node; by hand on each node: systemctl restart {self.unit}; {order}"

    def __str__(self) -> str:
        values = {name: f" ({old} to {new})" for name, (old, new) in self.changes.items()}
        names = ", ".join(f"{name}{values.get(name, '')}" for name in self.names)
        return f"PostgreSQL needs a restart for {names}: {self.fix}"


def waiting(here: Here) -> Waiting:
    """Return the parameters that need a restart of this node's server; raises OperationError if it does not answer."""
    instance = here.server.instance
    running = here.look().settings
    configured = pg.configured(instance)
    changes = {name: (running[name], new) for name, new in configured.items() if running.get(name, new) != new}
    names = {str(name) for (name,) in here.query(_WAITING)} | set(changes)
    return Waiting(tuple(sorted(names)), changes, instance.unit, here.cluster.mode.streams)


def includes_drop_in(here: Here) -> bool:
    """Return whether this node's server reads the cluster's drop-in file."""
    sql = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE %s"
    return bool(here.query(sql, "%/conf.d/pgpool2-cluster.conf")[0][0])


def restart_if_pending(here: Here) -> None:
    """Restart this node's server if a parameter that the cluster needs is pending a restart."""
    database = here.server
    before = here.query("SELECT pg_conf_load_time()")
    here.query("SELECT pg_reload_conf()")
    poll(lambda: here.query("SELECT pg_conf_load_time()") != before, seconds=_RELOAD_SECONDS, pause=0.02)
    pending = here.query("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")
    if pending:
        names = ", ".join(str(name) for (name,) in pending)
        _refuse_restart(here, names)
        log.info(f"restarting PostgreSQL {database.instance.name} once, for {names}")
        with here.under_way.starting:
            restart_now(here)


def restart_now(here: Here) -> None:
    """Restart this node's server through systemd, and wait until it answers; raises ClusterError.

    The unit asks this agent whether it may start, unless the caller holds `starting`.
    """
    database = here.server
    units.control("restart", database.instance.unit)
    database.close()
    pg.start(database)


def pending(here: Here) -> PendingAnswer:
    """Return what a restart of this node's server would change; raises OperationError if it does not answer."""
    fault, fix = next(iter(unstartable(here)), ("", ""))
    return PendingAnswer(waiting(here).names, pg.configured(here.server.instance), fault, fix)


def _refuse_restart(here: Here, names: str) -> None:
    """Raise OperationError if the server would not start again; it keeps serving with its present configuration."""
    found = unstartable(here)
    if found:
        reasons = "; ".join(reason for reason, _ in found)
        raise OperationError(
            f"PostgreSQL {here.server.instance.name} is not restarted for {names}, as it would not start again: "
            f"{reasons}",
            hint=f"{'; '.join(dict.fromkeys(fix for _, fix in found))}; then pgpoolctl apply",
        )


def unstartable(here: Here) -> list[tuple[str, str]]:
    """Return what would keep this node's server from starting again, each with its fix."""
    instance = here.server.instance
    values = {name: pg.setting(instance, name) for name in startable.STARTING}
    slots = [startable.Slot(str(name), bool(logical)) for name, logical in here.query(_SLOTS)]
    prepared = int(here.query("SELECT count(*) FROM pg_prepared_xacts")[0][0])
    found = [(f"{one.area}: {one.what}", one.fix) for one in startable.unstartable(values, slots, prepared)]
    if fault := pg.fault(instance):
        found.append((fault, "correct that file"))
    return found
