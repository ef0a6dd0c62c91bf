"""The histories of all nodes in one order, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pgpool_cluster.decision.reports import chronology
from pgpool_cluster.decision.reports.chronology import ClusterHistory, merged
from pgpool_cluster.decision.reports.events import Event

LOST = Event(1000.0, "pg3", "given-up", "pgpool-II has given up pg1", term=1)
CLAIMED = Event(1001.0, "pg2", "claim-term", "claim term 2", term=2, seconds=0.03)
PROMOTED = Event(1002.0, "pg2", "promote", "promote pg2 term 2", "pg1 is unreachable", "no primary", 2, 0.84)
RETURNED = Event(4600.0, "pg1", "rejoin", "rejoin pg1 source pg2", term=2, seconds=9.0, failed="pg2 is\x1b[2J away")


def test_events_are_ordered_by_time() -> None:
    found = {"pg1": [RETURNED], "pg2": [CLAIMED, PROMOTED], "pg3": [LOST]}
    assert [one.what for one in merged(found, 50)] == [LOST.what, CLAIMED.what, PROMOTED.what, RETURNED.what]
    assert merged(found, 2)[0] == PROMOTED
    assert merged(found, 0) == ()


def test_a_clock_that_is_ahead_does_not_move_the_cause_behind_the_effect() -> None:
    late = replace(LOST, time=LOST.time + 600)
    assert merged({"pg2": [CLAIMED], "pg3": [late]}, 50) == (late, CLAIMED)


def test_a_node_reports_only_its_own_events_at_times_that_can_be_shown() -> None:
    assert merged({"pg1": [PROMOTED]}, 50) == ()
    assert merged({"pg2": [replace(PROMOTED, time=1e300), replace(PROMOTED, time=-1.0)]}, 50) == ()


def test_the_text_has_what_why_and_what_was_seen_of_each_event() -> None:
    events = merged({"pg1": [RETURNED], "pg2": [PROMOTED]}, 50)
    text = chronology.lines(ClusterHistory(events, {"w": "w is unreachable: no route"}, ("pg1",)))
    assert text[0].endswith("  term 2  pg2  promote: promote pg2 term 2 (0.8 s)")
    assert text[1:3] == ["    why: no primary", "    seen: pg1 is unreachable"]
    assert text[3].endswith("rejoin: rejoin pg1 source pg2 (9.0 s) FAILED: pg2 is?[2J away")
    assert text[4].startswith("pg1: older events are left out")
    assert text[5] == "w: its events are missing: w is unreachable: no route"
    assert chronology.lines(ClusterHistory((), {})) == ["no event matches"]


def test_the_keys_of_the_json_are_those_of_the_documentation() -> None:
    """Scripts read them: they only grow in number (docs/reference/pgpoolctl.md)."""
    told = json.loads(json.dumps(chronology.as_json(ClusterHistory((PROMOTED,), {"w": "away"}, ("pg1",)))))
    assert list(told) == ["events", "unreached", "shortened"]
    keys = ["time", "node", "kind", "what", "seen", "why", "term", "seconds", "failed", "message_id"]
    assert list(told["events"][0]) == keys
    assert told["events"][0]["message_id"] == PROMOTED.message_id
    assert told["unreached"] == {"w": "away"}


@pytest.mark.parametrize("moment", [0.0, 32_503_679_999.0])
def test_every_credible_time_can_be_shown(moment: float) -> None:
    assert replace(PROMOTED, time=moment).credible
    assert chronology.stamp(moment)[:2] in ("19", "29", "30")
