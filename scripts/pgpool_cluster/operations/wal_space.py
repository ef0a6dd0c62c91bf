"""Watch the WAL that replication slots keep for absent nodes, and the free disk space.

A slot keeps WAL, and with hot_standby_feedback also dead rows, until its node is back. max_slot_wal_keep_size limits
that according to the size of the disk. Only this module notices if other files fill the disk.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from ..node.node import Here, sql_errors

_REPORTED_FRACTION = 0.8
"""Used fraction of the disk from which the slot that keeps the most WAL is reported."""
_GIVEN_UP_FRACTION = 0.95
"""Used fraction of the disk from which a slot is given up: its node needs a new copy, but a full disk stops a primary.
"""
_LEAST_REPORTED_BYTES = 64 * 2**20
_HELD = """
SELECT slot_name::text, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
FROM pg_replication_slots
WHERE NOT active AND restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'
ORDER BY 2 DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Held:
    """The inactive slot that keeps the most WAL, and the used fraction of the disk; str() gives one line about it."""

    slot: str
    bytes: int
    used: float
    ours: bool
    """Whether the slot belongs to a node of the cluster."""

    def __str__(self) -> str:
        size = f"{self.bytes / 2**30:.1f} GB"
        return f"the disk of pg_wal is {self.used:.0%} full; slot {self.slot} retains {size} of WAL"

    @property
    def hint(self) -> str:
        """The command or action that frees the disk."""
        if self.ours:
            limit = f"{_GIVEN_UP_FRACTION:.0%}"
            return (
                f"bring {self.slot} back or free space; at {limit} its slot is dropped, "
                "and the node needs pgpoolctl recover"
            )
        return f"let its subscriber catch up, or SELECT pg_drop_replication_slot('{self.slot}')"

    @property
    def given_up(self) -> bool:
        """Whether to give the slot up, so that its node needs a new copy but the primary's disk does not fill up."""
        return self.ours and self.used >= _GIVEN_UP_FRACTION


def held(here: Here) -> Held | None:
    """Return the slot that keeps the most WAL on this primary if the disk is 80 % full; None if there is no problem.

    Raises OperationError if PostgreSQL does not answer.
    """
    usage = shutil.disk_usage(os.path.realpath(here.server.instance.data / "pg_wal"))
    used = 1 - usage.free / usage.total
    if used < _REPORTED_FRACTION:
        return None
    rows = sql_errors(lambda: here.server.query(_HELD))
    if not rows or int(rows[0][1]) < _LEAST_REPORTED_BYTES:
        return None
    slot, size = str(rows[0][0]), int(rows[0][1])
    return Held(slot, size, used, slot in {node.slot for node in here.cluster.databases})
