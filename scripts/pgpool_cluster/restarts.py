"""What of this node's configuration waits for a restart of PostgreSQL, and in which order the nodes are restarted."""

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
"""Those that a reload has found, and those that the next one will."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Parameters that a restart would change; `changes`: of those that a standby must match, from and to."""

    names: tuple[str, ...]
    changes: dict[str, tuple[int, int]]
    unit: str
    streams: bool = True

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def fix(self) -> str:
        """What to type, and on which node first."""
        others = tuple(name for name in self.names if name not in self.changes)
        order = matching.order(self.changes, others) if self.streams else "node by node"
        return f"systemctl restart {self.unit}; {order}"

    def __str__(self) -> str:
        values = {name: f" ({old} to {new})" for name, (old, new) in self.changes.items()}
        names = ", ".join(f"{name}{values.get(name, '')}" for name in self.names)
        return f"PostgreSQL is to be restarted for {names}: {self.fix}"


def waiting(here: Here) -> Waiting:
    """Return what waits for a restart of this node's server; raises OperationError where it does not answer."""
    instance = here.server.instance
    running = here.look().settings
    configured = pg.configured(instance)
    changes = {name: (running[name], new) for name, new in configured.items() if running.get(name, new) != new}
    names = {str(name) for (name,) in act.query(here, _WAITING)} | set(changes)
    return Waiting(tuple(sorted(names)), changes, instance.unit, here.cluster.mode.streams)
