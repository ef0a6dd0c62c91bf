"""Merge the events of all nodes into one history, and show it as text. Pure.

The clocks of two nodes may differ, and a term cannot: its number is claimed from a majority. So events are ordered by
the latest term that their node knew, and within a term by time.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...ground import paths
from .events import Event

ORDER = "ordered by term, then by the time of each node's own clock"


@dataclass(frozen=True, slots=True)
class ClusterHistory:
    """The events of all reachable nodes in order.

    `unreached`: why the events of a node are missing. `shortened`: the nodes with more events than fit in an answer.
    """

    events: tuple[Event, ...]
    unreached: Mapping[str, str]
    shortened: tuple[str, ...] = ()


def merged(found: Mapping[str, Iterable[Event]], most: int) -> tuple[Event, ...]:
    """Return the last `most` events of all nodes in order, from those of each node. A node reports only its own."""
    every = [event.bounded() for name, events in found.items() for event in events if event.node == name]
    ordered = sorted((event for event in every if event.credible), key=lambda one: (one.term, one.time, one.node))
    return tuple(ordered[-most:]) if most > 0 else ()


def lines(history: ClusterHistory) -> list[str]:
    """Return a history as text: each event with its details, then the nodes whose events are missing."""
    text = [line for event in history.events for line in (short(event), *_details(event))]
    if not history.events:
        text = ["no event matches"]
    text += [
        f"{name}: older events are left out; hint: journalctl -u {paths.UNIT}, on {name}" for name in history.shortened
    ]
    return text + [f"{name}: its events are missing: {why}" for name, why in history.unreached.items()]


def short(event: Event) -> str:
    """Return an event as one line: time, term, node, and what happened."""
    return f"{stamp(event.time)}  term {event.term}  {event.node}  {event.kind}: {_outcome(event)}"


def _outcome(event: Event) -> str:
    took = f" ({event.seconds:.1f} s)" if event.seconds >= 0.05 else ""
    return f"{event.what}{took}{f' FAILED: {event.failed}' if event.failed else ''}"


def _details(event: Event) -> list[str]:
    named = (("why", event.why), ("seen", event.seen))
    return [f"    {name}: {text}" for name, text in named if text]


def as_json(history: ClusterHistory) -> dict[str, object]:
    """Return the object of `pgpoolctl history --json` (docs/reference/pgpoolctl.md)."""
    events = [{**dataclasses.asdict(event), "message_id": event.message_id} for event in history.events]
    return {"events": events, "unreached": dict(history.unreached), "shortened": list(history.shortened)}


def stamp(moment: float) -> str:
    """Return a time, in seconds since 1970, in this machine's time zone."""
    return datetime.datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
