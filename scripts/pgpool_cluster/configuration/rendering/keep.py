"""Keep the tuning of a server from before it joined the cluster: the higher of two values wins. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...decision.facts import matching
from ...decision.facts.quantities import quantity
from ...machine.own import Own

DEFAULTS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
"""PostgreSQL's defaults, 13 to 18, for the parameters that a standby must match."""


@dataclass(frozen=True, slots=True)
class KeptValues:
    """Values for the cluster's file, at least as high as the cluster needs.

    `more`: parameters for which the cluster itself needs no value.
    """

    wal_level: str
    max_connections: int
    max_wal_senders: int
    max_replication_slots: int
    max_slot_wal_keep_size: str
    wal_keep_size: str
    more: Mapping[str, str]
    archiver: str = ""
    """The server's own archive_command, which continues to run."""


@dataclass(frozen=True, slots=True)
class Least:
    """The values that the cluster itself needs; sizes in MB."""

    connections: int
    slots: int
    slots_keep_mb: int
    wal_keep_mb: int


def higher_values(
    own: Own, least: Least, needs: Mapping[str, int], libraries: Sequence[str] = (), *, logical: bool = False
) -> KeptValues:
    """Return the values in the cluster's file for the parameters that a server may need higher.

    `needs`: minimum values for a copy of the primary. `libraries`: what shared_preload_libraries must contain.
    `logical`: wal_level must be logical.
    """

    def highest(name: str, ours: int) -> int:
        return max(ours, own.number(name), needs.get(name, 0))

    ours = {"max_connections": least.connections, "max_wal_senders": 16}
    has = {name: highest(name, ours.get(name, 0)) for name in matching.CONTROL}
    more = {
        name: str(value)
        for name, value in needs.items()
        if name in DEFAULTS and name not in ours and value > (own.number(name) or DEFAULTS[name])
    }
    if missing := [name for name in libraries if name not in preloaded(own)]:
        more["shared_preload_libraries"] = ", ".join([*preloaded(own), *missing])
    return KeptValues(
        wal_level="logical" if logical or own.values.get("wal_level", "").lower() == "logical" else "replica",
        max_connections=has["max_connections"],
        max_wal_senders=has["max_wal_senders"],
        max_replication_slots=highest("max_replication_slots", least.slots),
        max_slot_wal_keep_size=_larger(own, "max_slot_wal_keep_size", least.slots_keep_mb),
        wal_keep_size=_larger(own, "wal_keep_size", least.wal_keep_mb),
        more=more,
        archiver=archiver(own),
    )


def limited_to_laid(own: Own, laid: Mapping[str, str]) -> Own:
    """Return the own settings of a member, limited to what the cluster's file `laid` has kept of them.

    An older package may have kept less. If its primary suddenly had higher values than the standbys, replay would stop
    there; and an archive_command that has been inactive for long may fail.
    """
    values = dict(own.values)
    for name in matching.CONTROL:
        if laid.get(name, "").isdigit() and own.number(name) > int(laid[name]):
            values[name] = laid[name]
    if archiver(own) and archiver(own) not in laid.get("archive_command", ""):
        values.pop("archive_command")
    return replace(own, values=values)


def preloaded(own: Own) -> list[str]:
    """Return the libraries that a server preloads according to its own files."""
    return libraries(own.values.get("shared_preload_libraries", ""))


def libraries(text: str) -> list[str]:
    """Return the names in a value of shared_preload_libraries."""
    return [name for word in text.split(",") if (name := word.strip().strip('"'))]


def archiver(own: Own) -> str:
    """Return the command that archives this server's WAL; "" if there is none, or if a library does that."""
    on = own.values.get("archive_mode", "off").lower() in ("always", "on", "true", "yes", "1")
    return own.values.get("archive_command", "") if on else ""


def _larger(own: Own, name: str, ours_mb: int) -> str:
    """Return the larger of two sizes; the server's own keeps its spelling, and -1 means unlimited."""
    text = own.values.get(name, "")
    found = quantity(text, "MB")
    return text if found is not None and (found < 0 or found > ours_mb * 2**20) else f"{ours_mb}MB"
