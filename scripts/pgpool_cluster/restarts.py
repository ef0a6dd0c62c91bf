"""Find the parameters that need a restart of PostgreSQL, and the order in which to restart the nodes."""

from __future__ import annotations

from dataclasses import dataclass

from . import act, matching
from . import postgresql as pg
from .node import Here

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
        order = matching.order(self.changes, others) if self.streams else "node by node"
        return f"systemctl restart {self.unit}; {order}"

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
    names = {str(name) for (name,) in act.query(here, _WAITING)} | set(changes)
    return Waiting(tuple(sorted(names)), changes, instance.unit, here.cluster.mode.streams)
