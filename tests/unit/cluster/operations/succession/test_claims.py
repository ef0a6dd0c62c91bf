"""A term belongs to one node. A new primary needs a term that more than half of all nodes have recorded for it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cluster.nodes import standby
from tests.unit.cluster.wired import Json, answering

from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations.succession import claims
from pgpool_cluster.transport import wire
from pgpool_cluster.transport.peers import Peers

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}", "cluster.yml", "pg1")


@pytest.fixture
def pg1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The node pg1, which led in term 1."""
    monkeypatch.setattr(paths, "RECORD", tmp_path / "record.json")
    return Here(CLUSTER, CLUSTER.named("pg1"), None, Peers.of(CLUSTER, "pg1"), Record(system=1, term=1, led=1))


def others(monkeypatch: pytest.MonkeyPatch, **taken: bool) -> None:
    """Make the other nodes answer a new term with these values."""

    def said(name: str, request: Json) -> object:
        assert (request["term"], request["file"]) == (2, CLUSTER.fingerprint)
        return {"taken": taken[name]} if name in taken else None

    answering(monkeypatch, said)


def test_this_node_leads_a_term_that_a_majority_has_recorded(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    others(monkeypatch, pg2=True, pg3=False)
    claims.claim(pg1, 2)
    assert (pg1.record.term, pg1.record.led) == (2, 2)


def test_an_accepted_loss_is_recorded_on_every_node(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes whose commits are lost do not rejoin by themselves, whichever node is the primary by then."""
    sent: list[object] = []

    def said(_: str, request: Json) -> object:
        sent.append(request.get("loss"))
        return {"taken": True}

    answering(monkeypatch, said)
    claims.claim(pg1, 2, loss=True)
    assert (pg1.record.loss, pg1.record.led) == (2, 2)
    assert sent[:2] == [True, True]
    claims.claim(pg1, 3)
    assert pg1.record.loss == 2


def test_nodes_with_an_older_package_vote_although_they_record_no_excuses(
    pg1: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that is upgraded first must be able to take over before the others are upgraded."""

    answering(monkeypatch, lambda _, request: {"taken": True} if request["do"] == "term" else None)
    claims.claim(pg1, 2)
    assert pg1.record.led == 2


@pytest.mark.parametrize("answers", [{}, {"pg2": False, "pg3": False}])
def test_without_a_majority_this_node_does_not_lead(
    pg1: Here, answers: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    others(monkeypatch, **answers)
    with pytest.raises(OperationError, match="only pg1 recorded term 2"):
        claims.claim(pg1, 2)
    assert pg1.record.led == 1


def test_a_term_claimed_by_another_node_is_not_claimed_again(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others would record a later term, so this node would start beside the node that leads this term."""
    others(monkeypatch, pg2=True, pg3=True)
    assert pg1.note_term(2)
    with pytest.raises(OperationError, match="another node has already claimed term 2"):
        claims.claim(pg1, 2)
    assert pg1.record.led == 1


def test_one_of_several_concurrent_claimants_gets_the_term(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    remember = Here.remember

    def slowly(here: Here, **changes: object) -> None:
        time.sleep(0.05)
        remember(here, **changes)

    monkeypatch.setattr(Here, "remember", slowly)
    with ThreadPoolExecutor(max_workers=4) as nodes:
        assert sorted(nodes.map(pg1.note_term, [2, 2, 2, 2])) == [False, False, False, True]


@pytest.mark.parametrize("place", ["x", [1], [1, "0"], [10**12, 0], [1, -1], [-1, -1], [True, 0], {"1": 0}, 7, None])
def test_a_malformed_vote_does_not_count_and_stops_no_claim(
    pg1: Here, place: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, lambda name, _: {"taken": True, "excuse": [1, 0] if name == "pg2" else place})
    assert {name: answer.excuse for name, answer in claims.tell(pg1, 2).items()} == {"pg1": (0, 0), "pg2": (1, 0)}
    claims.claim_promotion(pg1, 3, replace(standby("pg1", "pg3"), position=None), decided=(1, 0))
    assert pg1.record.led == 3


def test_a_node_reports_facts_only_about_itself(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a witness could replace a database node's vote by reporting facts about that node."""

    answering(monkeypatch, lambda name, _: wire.fields(NodeFacts("pg2", file="" if name == "pg2" else "other")))
    assert set(pg1._ask_for_looks(["pg2", "pg3"], fresh=False)) == {"pg2"}
