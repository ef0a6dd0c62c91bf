"""Which WAL only one node has: the part after the point where its history leaves that of the primary."""

from __future__ import annotations

import pytest
from tests.unit.cluster.nodes import primary

from pgpool_cluster.decision.facts.divergence import Stretch, own_stretches
from pgpool_cluster.decision.facts.facts import Lsn, Switch

History = tuple[Switch, ...]


def history(*ends: int) -> History:
    """Timelines from 1 on that ended at these positions."""
    return tuple(Switch(number, Lsn(end)) for number, end in enumerate(ends, 1))


def stretch(timeline: int, start: int, end: int | None = None) -> Stretch:
    return Stretch(timeline, Lsn(start), None if end is None else Lsn(end))


@pytest.mark.parametrize(
    ("of_source", "timeline", "of_target", "wanted"),
    [
        pytest.param(history(1000), 1, (), [stretch(1, 1000)], id="a primary that was replaced"),
        pytest.param(history(1000, 1200), 1, (), [stretch(1, 1000)], id="a primary that was replaced twice"),
        pytest.param(history(1000, 1200), 2, history(1000), [stretch(2, 1200)], id="the second primary of three"),
        pytest.param((), 1, (), [stretch(1, 5000)], id="a standby of the same timeline"),
        pytest.param(history(1000), 2, history(1000), [stretch(2, 5000)], id="the same after a promotion"),
        pytest.param(history(1000), 2, history(1100), [stretch(1, 1000, 1100), stretch(2, 1100)],
                     id="promoted elsewhere with more WAL"),
        pytest.param(history(1100), 2, history(1000), [stretch(2, 1000)], id="promoted elsewhere with less WAL"),
        pytest.param(history(1000), 3, history(1100, 1300),
                     [stretch(1, 1000, 1100), stretch(2, 1100, 1300), stretch(3, 1300)],
                     id="promoted twice on the other side"),
        pytest.param((Switch(1, Lsn(1000)), Switch(2, Lsn(1100))), 4, (Switch(1, Lsn(1000)), Switch(3, Lsn(1200))),
                     [stretch(3, 1000, 1200), stretch(4, 1200)], id="another timeline after the same promotion"),
        pytest.param(history(1000, 1200), 3, (), [stretch(3, 0)], id="a history that is not known"),
    ],
)  # fmt: skip
def test_the_wal_after_the_fork_is_found(
    of_source: History, timeline: int, of_target: History, wanted: list[Stretch]
) -> None:
    timelines = max((switch.timeline for switch in of_source), default=0) + 1
    source = primary("pg1", timeline=timelines, at=5000)
    found = own_stretches(
        type(source)(source.node, timeline=timelines, position=source.position, history=of_source), timeline, of_target
    )
    assert list(found) == wanted
