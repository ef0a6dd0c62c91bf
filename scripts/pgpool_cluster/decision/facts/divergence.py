"""Find the WAL of one node that is not part of another node's history. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from .facts import Lsn, NodeFacts, Origin, Switch, branch


@dataclass(frozen=True, slots=True)
class Stretch:
    """The WAL of `timeline` from `start` to `end`. If `end` is None, it has no known end."""

    timeline: int
    start: Lsn
    end: Lsn | None = None


def own_stretches(
    source: NodeFacts, timeline: int, history: Iterable[Switch], origins: Iterable[Origin] = ()
) -> tuple[Stretch, ...]:
    """Return the stretches of WAL, in order, that a node on `timeline` with this `history` may have and `source` lacks.

    `source` is a primary with a known timeline and position. Without a common timeline, or if the timeline is not in
    the node's history, the first stretch starts at 0/0, so that it includes all WAL.
    """
    mine = _path(timeline, history)
    common = _common(mine, _path(source.timeline or 0, source.history), branch(source.origins, origins))
    start = _fork(mine, source, common)
    ends = [(number, end) for number, end in mine[max(common - 1, 0) :]]
    found = [Stretch(ends[0][0], start, ends[0][1])]
    found += [Stretch(number, before or start, end) for (_, before), (number, end) in pairwise(ends)]
    return tuple(one for one in found if one.end is None or one.start < one.end)


_Path = list[tuple[int, Lsn | None]]
"""Timelines and their ends in order; the last one has no end."""


def _path(timeline: int, history: Iterable[Switch]) -> _Path:
    return [*((one.timeline, one.lsn) for one in history), (timeline, None)]


def _common(mine: _Path, theirs: _Path, branching: int | None) -> int:
    """Return the number of timelines at the beginning that both histories have; only the last may end differently.

    `branching`: the first timeline that has the same number in both, but another origin.
    """
    count = 0
    for (number, end), (other, other_end) in zip(mine, theirs, strict=False):
        if number == branching or number != other:
            break
        count += 1
        if end != other_end:
            break
    return count


def _fork(mine: _Path, source: NodeFacts, common: int) -> Lsn:
    """Return the position up to which both have the same WAL."""
    if not common:
        return Lsn(0)
    ends = [end for end in (mine[common - 1][1], _path(source.timeline or 0, source.history)[common - 1][1]) if end]
    return min(ends) if ends else source.position or Lsn(0)
