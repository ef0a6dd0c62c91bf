"""The parameters for which a standby needs at least the primary's value, and the resulting order of restarts.

A standby with a lower value stops replaying when the primary's value arrives in the WAL. After that it cannot restart,
and it shuts down if promoted (PostgreSQL 13 to 18, "Hot Standby", Administrator's Overview). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...ground import paths

CONTROL = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
"""The parameters and their labels in pg_controldata, which shows the values that a standby needs."""

_PLAIN = (*CONTROL, "max_replication_slots")
_HIGHEST_VALUE = 262143
"""The upper limit of max_connections and similar parameters (MAX_BACKENDS)."""


def needed(control: Mapping[str, str]) -> dict[str, int]:
    """Return the values that the WAL requires of a standby, from the output of pg_controldata."""
    return {name: int(control[label]) for name, label in CONTROL.items() if control.get(label, "").isdigit()}


def lower(has: Mapping[str, int], needs: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return each parameter that is too low, with its value and the required one."""
    both = {name: (has[name], needs[name]) for name in CONTROL if name in has and name in needs}
    return {name: (value, least) for name, (value, least) in both.items() if value < least}


def plain(values: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the values that are valid for a server; postgres can edit the record they come from."""
    return {name: value for name, value in values if name in _PLAIN and 0 <= value <= _HIGHEST_VALUE}


def lines(values: Mapping[str, int]) -> str:
    """Return the line for cluster.yml that sets these values."""
    return f"postgresql_conf: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"


def raising(node: str, values: Mapping[str, int]) -> str:
    """Return the hint for a standby that needs at least these values."""
    return (
        f"in {paths.CLUSTER_YML} on every node: {lines(values)} or more; pgpoolctl apply on every node; "
        f"then on {node}: systemctl restart postgresql"
    )


def order(changes: Mapping[str, tuple[int, int]], others: tuple[str, ...] = ()) -> str:
    """Return the order in which to restart the servers for these changes, each from one value to another.

    `others`: further parameters that need a restart, for which a standby may have any value.
    """
    grow = [name for name, (old, new) in changes.items() if new > old]
    shrink = [name for name, (old, new) in changes.items() if new < old]
    if grow and shrink:
        return (
            f"{', '.join(grow)} grows and {', '.join(shrink)} shrinks, but no order suits both: undo one of them in "
            f"{paths.CLUSTER_YML} for now"
        )
    if shrink:
        return f"{', '.join(shrink)} shrinks: the primary first, then the standbys; one restarted earlier stays down"
    if grow:
        return f"{', '.join(grow)} grows: the standbys first, then the primary; otherwise they stop replaying"
    return "the standbys first, then the primary" if others else ""
