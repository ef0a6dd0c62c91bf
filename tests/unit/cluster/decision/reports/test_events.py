"""Events: a kind for each action, a fixed MESSAGE_ID for each kind, and texts that stay small."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cluster.decision.test_actions import WORDS
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, healthy, orphaned, pgpool, primary, seen

from pgpool_cluster.decision.actions import Action, Detach, Promote, Refuse, Wait
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.decision.reports import events
from pgpool_cluster.decision.reports.events import LONGEST_TEXT, MESSAGE_IDS, Event, EventKind
from pgpool_cluster.transport import wire

HERE = Path(__file__).parents[5]
REFERENCE = (HERE / "docs" / "reference" / "events.md").read_text(encoding="utf-8")
CATALOG = (HERE / "scripts" / "catalog" / "pgpool2-cluster.catalog").read_text(encoding="utf-8")
EVENT = Event(
    1000.0, "pg2", "promote", "promote pg2 term 2", "pg1 is unreachable", "no primary is in sight", 2, 0.84, ""
)


def test_every_kind_has_its_own_random_message_id() -> None:
    assert set(MESSAGE_IDS) == set(EventKind)
    assert len(set(MESSAGE_IDS.values())) == len(EventKind)
    random = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")
    assert [one for one in MESSAGE_IDS.values() if not random.fullmatch(one)] == []


def test_a_message_id_never_changes() -> None:
    """Administrators have these in their alerts."""
    assert MESSAGE_IDS[EventKind.FOUND] == "95a1ab5512a14821befda848ceecab79"
    assert {kind: f"| `{kind}` | `{MESSAGE_IDS[kind]}` |" in REFERENCE for kind in EventKind} == dict.fromkeys(
        EventKind, True
    )


def test_the_catalog_explains_every_kind_and_no_other() -> None:
    assert re.findall(r"^-- (\w+)$", CATALOG, re.MULTILINE) == list(MESSAGE_IDS.values())
    named = set(re.findall(r"@(\w+)@", CATALOG))
    assert named <= {name for name in everything().journal_fields if name.startswith("PGPOOL_CLUSTER_")}


def everything() -> Event:
    return replace(EVENT, failed="only pg2 recorded term 2")


@pytest.mark.parametrize("action", WORDS, ids=lambda action: type(action).__name__)
def test_every_action_has_a_kind_and_a_reason(action: Action) -> None:
    assert events.kind_of(action) in EventKind
    assert events.reason(action)


def test_the_kind_of_an_action_is_its_name_and_its_own_reason_counts() -> None:
    for action in WORDS:
        if not isinstance(action, Wait | Refuse) and events.kind_of(action) is not EventKind.NEEDS_ADMINISTRATOR:
            assert re.sub(r"(?<!^)([A-Z])", r"-\1", type(action).__name__).lower() == events.kind_of(action)
    assert events.reason(Detach("pg2", "it lags")) == "it lags"
    assert events.kind_of(Promote("pg2", 2)) is EventKind.PROMOTE


def test_the_text_and_the_fields_of_an_event() -> None:
    assert EVENT.text == "promote pg2 term 2: done in 0.8 s, because no primary is in sight"
    assert everything().text == (
        "promote pg2 term 2: failed after 0.8 s: only pg2 recorded term 2, because no primary is in sight"
    )
    assert EVENT.journal_fields == {
        "MESSAGE_ID": MESSAGE_IDS[EventKind.PROMOTE], "PGPOOL_CLUSTER_NODE": "pg2", "PGPOOL_CLUSTER_EVENT": "promote",
        "PGPOOL_CLUSTER_WHAT": "promote pg2 term 2", "PGPOOL_CLUSTER_SEEN": "pg1 is unreachable",
        "PGPOOL_CLUSTER_WHY": "no primary is in sight", "PGPOOL_CLUSTER_TERM": "2", "PGPOOL_CLUSTER_SECONDS": "0.840",
    }  # fmt: skip
    assert "MESSAGE_ID" not in replace(EVENT, kind="of-a-newer-version").journal_fields


def test_a_bounded_event_has_short_lines_of_printable_text() -> None:
    hostile = Event(1.0, "pg2", "x" * 9999, "a\nb\x1b[2J\ud800", "𝛀" * 9999, "\t", 1, 0.0, "y" * 9999).bounded()
    texts = (hostile.kind, hostile.what, hostile.seen, hostile.why, hostile.failed)
    assert all(len(text) <= LONGEST_TEXT and text.isprintable() for text in texts)
    assert (hostile.what, hostile.why) == ("a b?[2J?", "")
    assert len(json.dumps(wire.fields(hostile))) < 32_000


def test_an_event_survives_the_wire() -> None:
    told = json.loads(json.dumps(wire.fields(EVENT)))
    assert wire.read(Event, told, "event") == EVENT
    assert wire.read(Event, {**told, "of a newer version": 1}, "event") == EVENT
    for name, value in (("time", "x"), ("time", float("nan")), ("term", 1.5), ("what", None), ("node", 3)):
        with pytest.raises(ValueError, match=name):
            wire.read(Event, {**told, name: value}, "event")


def test_the_state_of_the_nodes_is_one_line() -> None:
    _, pg2, pg3 = healthy()
    facts = seen(away("pg1"), replace(orphaned(pg2), pgpool=pgpool("pg1")), replace(pg3, reachable=False))
    states = "pg1 is unreachable; pg2 is a standby of pg1 at 0/3E8, not streaming; pg3 is unreachable"
    assert events.seen(CLUSTER, facts) == states, "no pgpool-II speaks for the others"
    native = seen(away("pg1"), replace(primary("pg2"), pgpool=pgpool("pg1")), replace(pg3, reachable=False))
    assert events.seen(NATIVE, native).endswith("; pgpool-II of pg2 leads, and has detached pg1")
    assert events.seen(NATIVE, seen(away("pg1"), primary("pg2"))).endswith("; no pgpool-II leads")
    assert events.seen(CLUSTER, seen(*healthy())).startswith(
        "pg1 accepts writes at 0/3E8, led term 1; pg2 is a standby"
    )
    assert events.seen(CLUSTER, ClusterFacts()) == ""
