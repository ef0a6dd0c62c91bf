"""The histories of all nodes: those that answer, are unreachable, or have an older package."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER
from tests.unit.cluster.wired import Json, answering

from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.decision.reports.events import Event, EventKind
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node import histories, recording
from pgpool_cluster.node.node import Here
from pgpool_cluster.transport import lines, protocol, wire
from pgpool_cluster.transport.lines import Line
from pgpool_cluster.transport.peers import Peer, Peers
from pgpool_cluster.transport.protocol import Request

THEIRS = Event(1000.0, "pg2", "promote", "promote pg2 term 2", term=2)


@pytest.fixture
def here() -> Here:
    found = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers.of(CLUSTER, "pg1"), Record(system=7000, term=1))
    recording.note(found, EventKind.HOLD, "keep clients off pg1")
    return found


def test_the_events_of_nodes_that_answer_are_merged(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Json] = []

    def said(name: str, request: Json) -> object:
        asked.append(request)
        return {"events": [wire.fields(THEIRS)]} if name == "pg2" else {}

    answering(monkeypatch, said)
    found = histories.of_cluster(here, 7, 3.0)
    assert [event.node for event in found.events] == ["pg1", "pg2"]
    assert (found.unreached, found.shortened) == ({}, ())
    assert asked == [{"do": "history", "most": 7, "since": 3.0, "version": protocol.VERSION}] * 2


def test_an_unreachable_node_and_one_of_an_older_package_are_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(peer: Peer, _: Request[Any], *__: object) -> Line:
        if peer.name == "pg2":
            raise ConnectionError("no route to host")
        return Line.parse(lines.refusal(OperationError("unknown request 'history'", hint="update it"), 0))

    monkeypatch.setattr(Peer, "_ask", ask)
    monkeypatch.setattr(Peer, "_try_again", lambda _: None)
    found = histories.of_cluster(here, 7)
    assert [event.what for event in found.events] == ["keep clients off pg1"]
    assert found.unreached == {
        "pg2": "pg2 is unreachable: no route to host",
        "pg3": "unknown request 'history'; its package is older than histories",
    }


@pytest.mark.parametrize(
    ("most", "since", "named"), [(1, 0.0, ()), (1, 1.0, ("pg2",)), (9, 0.0, ("pg2",))],
    ids=("as many as requested", "not all since then", "no room for more"),
)  # fmt: skip
def test_a_node_that_left_out_events_that_were_requested_is_named(
    most: int, since: float, named: tuple[str, ...], here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened = {"pg2": {"events": [wire.fields(THEIRS)], "shortened": True}}
    answering(monkeypatch, lambda name, _: shortened.get(name, {}))
    assert histories.of_cluster(here, most, since).shortened == named


def test_an_event_has_the_latest_term_and_the_facts_of_its_beginning(here: Here) -> None:
    here.seen.publish(ClusterFacts({"pg2": NodeFacts("pg2", member=True, term=5)}))

    def fail() -> None:
        with recording.timed(here, EventKind.PROMOTE, "promote pg1 term 6", why="none"):
            here.seen.publish(ClusterFacts())
            here.record = here.record.with_changes(term=6)
            raise KeyError("pg9")

    with pytest.raises(KeyError):
        fail()
    event = here.history.recent(1)[0][0]
    assert (event.term, event.failed, event.why) == (6, "KeyError: 'pg9'", "none")
    assert event.seen == "pg1 is unreachable; pg2 has PostgreSQL down; pg3 is unreachable"


def test_an_event_before_a_promotion_has_the_term_of_the_facts(here: Here) -> None:
    here.seen.publish(ClusterFacts({"pg2": NodeFacts("pg2", member=True, term=5)}))
    recording.note(here, EventKind.GIVEN_UP, "pgpool-II has given up pg3")
    assert here.history.recent(1)[0][0].term == 5
