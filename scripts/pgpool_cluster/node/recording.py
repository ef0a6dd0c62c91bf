"""Record events of this node with its term, the facts that it saw, and the time that they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..decision.reports import events
from ..decision.reports.events import Event, EventKind
from ..decision.situation import latest_term
from ..ground.errors import ClusterError
from .node import Here


def note(here: Here, kind: EventKind, what: str, *, why: str = "", seconds: float = 0.0) -> None:
    """Record an event that has just ended. Never raises."""
    here.history.add(replace(_begun(here, kind, what, why), seconds=round(seconds, 3)))


@contextmanager
def timed(here: Here, kind: EventKind, what: str, *, why: str = "", unless_done: bool = False) -> Iterator[None]:
    """Record an event when the block ends, with the time that it took, and with the error that ended it.

    `unless_done`: record only a failure, because a part of the block records the success.
    """
    began, about = time.monotonic(), _begun(here, kind, what, why)

    def add(failed: str = "") -> None:
        seconds = round(time.monotonic() - began, 3)
        here.history.add(replace(about, time=time.time(), term=_term(here), seconds=seconds, failed=failed))

    try:
        yield
    except Exception as error:
        add(error.message if isinstance(error, ClusterError) else f"{type(error).__name__}: {error}")
        raise
    if not unless_done:
        add()


def _begun(here: Here, kind: EventKind, what: str, why: str) -> Event:
    seen = events.seen(here.cluster, here.seen.value)
    return Event(time.time(), here.me.name, kind, what, seen, why, _term(here))


def _term(here: Here) -> int:
    """Return the latest term that this node knows; facts may have a later one than a record of long ago."""
    return max(here.record.term, latest_term(here.cluster, here.seen.value))
