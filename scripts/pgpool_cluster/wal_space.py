"""WAL that replication slots keep for nodes that are away, and the room that is left for it.

A slot keeps WAL, and with hot_standby_feedback dead rows as well, until its node is back. The parameter
max_slot_wal_keep_size bounds that by the size of the disk; what else fills the disk is seen here only.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from .node import Here, sql_errors

TOLD = 0.8
"""The share of the disk that may be taken before the slot that keeps most is named."""
GIVEN_UP = 0.95
"""The share from which a slot is given up: its node is copied anew, while a primary with a full disk stops."""
_LEAST_BYTES = 64 * 2**20
_HELD = """
SELECT slot_name::text, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
FROM pg_replication_slots
WHERE NOT active AND restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'
ORDER BY 2 DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Held:
    """The slot of a node that is away and for which most WAL is kept, and how full the disk is. str() is one line."""

    slot: str
    bytes: int
    used: float
    ours: bool
    """It is the slot of a node of the cluster."""

    def __str__(self) -> str:
        size = f"{self.bytes / 2**30:.1f} GB"
        return f"the disk of pg_wal is {self.used:.0%} full; slot {self.slot} holds back {size} of WAL"

    @property
    def hint(self) -> str:
        """What to type."""
        if self.ours:
            return f"bring {self.slot} back or free space; at {GIVEN_UP:.0%} its slot is given up: pgpoolctl recover"
        return f"let it be read, or SELECT pg_drop_replication_slot('{self.slot}')"

    @property
    def given_up(self) -> bool:
        """Whether it is better that this node is copied anew than that the primary's disk fills."""
        return self.ours and self.used >= GIVEN_UP


def held(here: Here) -> Held | None:
    """Return what a slot holds back on this primary's disk once that is 80 % full; None where nothing is to be told.

    Raises OperationError where PostgreSQL does not say.
    """
    usage = shutil.disk_usage(os.path.realpath(here.server.instance.data / "pg_wal"))
    used = 1 - usage.free / usage.total
    if used < TOLD:
        return None
    rows = sql_errors(lambda: here.server.query(_HELD))
    if not rows or int(rows[0][1]) < _LEAST_BYTES:
        return None
    slot, size = str(rows[0][0]), int(rows[0][1])
    return Held(slot, size, used, slot in {node.slot for node in here.cluster.databases})
