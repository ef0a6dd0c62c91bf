"""Find what would keep a PostgreSQL server from starting with new values. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...ground import paths
from .finding import Finding, Kind, written


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot; `held`: how many bytes of WAL it keeps."""

    name: str
    logical: bool
    held: int = 0


STARTING = ("wal_level", "max_replication_slots", "max_prepared_transactions")
"""The parameters that `unstartable` checks."""


def unstartable(
    values: Mapping[str, str], slots: Sequence[Slot], prepared: int, file: str = str(paths.CLUSTER_YML)
) -> Iterator[Finding]:
    """Yield what would keep a server from starting with these values; other parameters are not checked."""
    wal_level = values.get("wal_level", "")
    logical = [slot.name for slot in slots if slot.logical]
    if logical and wal_level and wal_level != "logical":
        what = f"replication slot {', '.join(logical)} needs logical, and it would be {wal_level}"
        yield Finding(Kind.REFUSED, "wal_level", what, written("wal_level", "logical", file))
    if wal_level == "minimal":
        what = "it would be minimal, and no standby could follow"
        fix = "ALTER SYSTEM RESET wal_level, and no wal_level in a line after include_dir"
        yield Finding(Kind.REFUSED, "wal_level", what, fix)
    for name, needed, reason in (
        ("max_replication_slots", len(slots), "replication slots exist"),
        ("max_prepared_transactions", prepared, "prepared transactions exist"),
    ):
        value = values.get(name, "")
        if value.isdigit() and int(value) < needed:
            what = f"{needed} {reason}, and it would be {value}"
            yield Finding(Kind.REFUSED, name, what, written(name, str(needed), file))
