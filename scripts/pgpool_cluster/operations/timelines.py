"""Record in which term each timeline of this node's WAL began.

PostgreSQL numbers timelines without knowing of other nodes. So two standbys that are promoted one after the other, from
the same timeline at the same position, begin different timelines with the same number and the same history. Only the
term tells them apart: a standby of the one must not follow the other.
"""

from __future__ import annotations

import contextlib

from ..decision.facts.facts import ClusterFacts, NodeFacts, Origin, branch
from ..decision.situation import rightful_primary
from ..ground.errors import ClusterError
from ..node.node import Here


def tend(here: Here, facts: ClusterFacts) -> None:
    """Record the origin of this primary's timeline, or adopt those of the primary that this standby receives from."""
    mine, primary = facts.of(here.me.name), rightful_primary(here.cluster, facts)
    if not here.cluster.mode.streams or primary is None:
        return
    if primary is mine:
        _note(here, mine)
    elif mine.follows == primary.node and mine.streaming and mine.timeline == primary.timeline:
        _adopt(here, primary)


def begin(here: Here) -> None:
    """Record the origin of the timeline that this node has just begun; if that fails, `tend` does so later."""
    with contextlib.suppress(ClusterError):
        here.forget_looks()
        _note(here, here.look())


def expect(here: Here, primary: NodeFacts) -> None:
    """Record the origins of the primary that this standby is about to follow, before any of its WAL arrives.

    Recorded origins that contradict them may be those of WAL that this node has received meanwhile, so they stay.
    """
    if branch(primary.origins, here.record.origins) is None:
        _adopt(here, primary)


def _adopt(here: Here, primary: NodeFacts) -> None:
    if primary.writable and primary.timeline in {origin.timeline for origin in primary.origins}:
        here.remember(origins=primary.origins)


def received(here: Here, mine: NodeFacts) -> tuple[Origin, ...]:
    """Return the recorded origins of the timelines that this node has, without those that it has only adopted."""
    timelines = {*(switch.timeline for switch in mine.history), mine.timeline}
    return tuple(origin for origin in here.record.origins if origin.timeline in timelines)


def _note(here: Here, mine: NodeFacts) -> None:
    """Record that this primary's timeline began in the term in which it leads, unless its origin is known."""
    kept = received(here, mine)
    new = mine.timeline and mine.timeline not in {origin.timeline for origin in kept}
    if (
        mine.writable and new and here.record.led >= here.record.term
    ):  # else it was promoted by hand, without a term yet
        here.remember(origins=(*kept, Origin(mine.timeline, here.record.led)))
