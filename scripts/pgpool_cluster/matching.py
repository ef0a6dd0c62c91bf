"""The parameters of which a standby needs at least the primary's value, and the order in which servers are restarted.

A standby that has less stops replaying when the primary's value comes by in the WAL, does not start any more, and ends
when it is promoted (PostgreSQL 13 to 18, "Hot Standby", Administrator's Overview). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import paths

CONTROL = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
"""The parameters, each with what pg_controldata calls it: there a standby keeps the values that it has to have."""

_PLAIN = (*CONTROL, "max_replication_slots")
_MOST = 262143
"""What max_connections and its like can be at most (MAX_BACKENDS)."""


def needed(control: Mapping[str, str]) -> dict[str, int]:
    """Return the values that the WAL wants of a standby, from what pg_controldata prints."""
    return {name: int(control[label]) for name, label in CONTROL.items() if control.get(label, "").isdigit()}


def lower(has: Mapping[str, int], needs: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return each parameter that is too low, with the value that there is and the one that is needed."""
    both = {name: (has[name], needs[name]) for name in CONTROL if name in has and name in needs}
    return {name: (value, least) for name, (value, least) in both.items() if value < least}


def plain(values: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the values that can be parameters of a server, of those that postgres has written down."""
    return {name: value for name, value in values if name in _PLAIN and 0 <= value <= _MOST}


def lines(values: Mapping[str, int]) -> str:
    """Return what to write into cluster.yml for these values."""
    return f"postgresql_conf: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"


def raising(node: str, values: Mapping[str, int]) -> str:
    """Return the hint for a standby that needs at least these values."""
    return (
        f"in {paths.CLUSTER_YML} on every node: {lines(values)} or more; pgpoolctl apply on every node; "
        f"then on {node}: systemctl restart postgresql"
    )


def order(changes: Mapping[str, tuple[int, int]], others: tuple[str, ...] = ()) -> str:
    """Return the order in which the servers are restarted for these changes, each from one value to another.

    `others`: parameters that want a restart, too, and that a standby may have as it likes.
    """
    grow = [name for name, (old, new) in changes.items() if new > old]
    shrink = [name for name, (old, new) in changes.items() if new < old]
    if grow and shrink:
        return (
            f"{', '.join(grow)} grows and {', '.join(shrink)} shrinks, and no order suits both: undo one of them in "
            f"{paths.CLUSTER_YML} for now"
        )
    if shrink:
        return f"{', '.join(shrink)} shrinks: the primary first, then the standbys; no standby before, or it stays down"
    if grow:
        return f"{', '.join(grow)} grows: the standbys first, then the primary; else they stop replaying"
    return "the standbys first, then the primary" if others else ""
