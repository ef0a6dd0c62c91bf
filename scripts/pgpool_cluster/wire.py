"""Facts as JSON, for the way between two nodes."""

from __future__ import annotations

import dataclasses
from typing import Any

from .archive import Usage
from .facts import BackendState, Lsn, NodeFacts, PgpoolFacts, Postgresql, Switch, WatchdogState

Json = dict[str, Any]


def encode(facts: NodeFacts) -> Json:
    """Return what `decode` takes."""
    values = dataclasses.asdict(facts)
    values["slots"] = sorted(facts.slots)
    for name in ("position", "replayed"):
        lsn: Lsn | None = getattr(facts, name)
        values[name] = lsn and str(lsn)
    values["history"] = [[switch.timeline, str(switch.lsn)] for switch in facts.history]
    return values


def decode(values: Json) -> NodeFacts:
    """Return the facts; unknown names, as of a newer version, are left out. Raises ValueError for what is no fact."""
    try:
        known = {field.name: values[field.name] for field in dataclasses.fields(NodeFacts) if field.name in values}
        known["postgresql"] = Postgresql(known["postgresql"])
        known["databases"] = None if known["databases"] is None else tuple(known["databases"])
        known["slots"] = frozenset(known["slots"])
        for name in ("position", "replayed"):
            known[name] = None if known.get(name) is None else Lsn.parse(known[name])
        known["history"] = tuple(Switch(int(timeline), Lsn.parse(lsn)) for timeline, lsn in known["history"])
        known["pgpool"] = None if known["pgpool"] is None else _pgpool(known["pgpool"])
        known["archive"] = None if known.get("archive") is None else _archive(known["archive"])
        return NodeFacts(**known)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no facts of a node: {error}") from error


def _pgpool(values: Json) -> PgpoolFacts:
    return PgpoolFacts(
        watchdog=WatchdogState(values["watchdog"]),
        quorum=bool(values["quorum"]),
        backends={name: BackendState(state) for name, state in values["backends"].items()},
        primary=values["primary"],
    )


def _archive(values: Json) -> Usage:
    return Usage(
        files=int(values["files"]),
        bytes=int(values["bytes"]),
        used=float(values["used"]),
        oldest=str(values["oldest"]),
        newest=str(values["newest"]),
    )
