"""A pause holds back every action but those that only record missing writes, or let a booted host serve."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from tests.unit.cluster.decision.test_actions import WORDS
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, crashed, down, healthy, orphaned, pgpool, primary, seen

from pgpool_cluster.decision import standstill
from pgpool_cluster.decision.actions import (
    Action,
    AwaitRecovery,
    Begin,
    CreateSlots,
    Dismiss,
    GiveUpPlace,
    Promote,
    Redirect,
    Refuse,
    StandApart,
    StartPgpool,
    Wait,
)
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.decision.facts.pause import LONGEST_REASON, NO_PAUSE, Pause
from pgpool_cluster.definition.cluster import Service

PAUSED = Pause(1, True, 1000.0, "root@pg1", "new switches")
ENDED = Pause(2, False, 2000.0, "root@pg2", "")
GOES_ON = {Wait, AwaitRecovery, Refuse, GiveUpPlace, StandApart, Dismiss, StartPgpool, CreateSlots, Redirect}


@pytest.mark.parametrize("action", WORDS, ids=lambda action: type(action).__name__)
def test_each_action_in_a_pause(action: Action) -> None:
    assert standstill.permitted((action,), PAUSED) == ((action,) if type(action) in GOES_ON else ())
    for without in (NO_PAUSE, ENDED):
        assert standstill.permitted((action,), without) == (action,)


def test_every_kind_of_action_was_tried() -> None:
    assert {type(action) for action in WORDS} == set(get_args(Action))


def test_a_pgpool_whose_start_needs_a_term_does_not_start() -> None:
    start, begin = StartPgpool("pg1"), Begin("pg1", 3)
    assert standstill.permitted((begin, start), PAUSED) == ()
    assert standstill.permitted((start,), PAUSED) == (start,)


PG1, PG2, PG3 = healthy()
ORPHANS = [orphaned(replace(one, pgpool=pgpool("pg1", leader=one is PG2))) for one in (PG2, PG3)]
BOOTED = StartPgpool("pg2")


@pytest.mark.parametrize(
    ("me", "nodes"),
    [
        ("pg2", (away("pg1"), *ORPHANS)),
        ("pg1", (down(PG1), *ORPHANS)),
        ("pg1", (primary("pg1"), primary("pg2", term=2, timeline=2), away("pg3"))),
        ("pg2", (PG1, down(PG2), PG3)),
        ("pg3", (PG1, PG2, replace(PG3, streaming=False, follows="pg2"))),
        ("pg1", (replace(PG1, pgpool=pgpool("pg2")), PG2, PG3)),
    ],
    ids=("a lost primary", "its return", "two primaries", "a standby is down", "a wrong primary", "a detached standby"),
)
def test_a_situation_that_leads_to_actions_leads_to_none_in_a_pause(me: str, nodes: tuple[NodeFacts, ...]) -> None:
    decided = tuple(one for one in decide(CLUSTER, CLUSTER.named(me), seen(*nodes)) if one != BOOTED)
    assert decided
    assert standstill.permitted(decided, NO_PAUSE) == decided
    assert standstill.permitted(decided, PAUSED) == ()


def test_a_native_node_that_lacks_writes_records_it_in_a_pause() -> None:
    pg1, pg2, pg3 = (primary(name) for name in ("pg1", "pg2", "pg3"))
    lacking = decide(NATIVE, NATIVE.named("pg2"), seen(pg1, crashed(pg2), pg3))
    assert standstill.permitted(lacking, PAUSED) == lacking == (GiveUpPlace("pg2"), BOOTED)


def with_pause(pause: Pause | None, one: NodeFacts) -> NodeFacts:
    return replace(one, pause=pause)


def test_the_latest_record_in_sight_counts() -> None:
    facts = seen(with_pause(NO_PAUSE, PG1), with_pause(PAUSED, PG2), with_pause(ENDED, replace(PG3, reachable=False)))
    assert standstill.latest(CLUSTER, "pg1", facts) == PAUSED
    facts = seen(with_pause(NO_PAUSE, PG1), with_pause(PAUSED, PG2), with_pause(ENDED, PG3))
    assert standstill.latest(CLUSTER, "pg1", facts) == ENDED
    assert standstill.latest(CLUSTER, "pg1", seen(PG1, PG2)) == NO_PAUSE


def test_of_a_pause_and_an_end_at_the_same_time_the_pause_counts() -> None:
    both = (replace(ENDED, serial=1), PAUSED)
    assert max(both, key=lambda one: one.place) == PAUSED


def test_a_witness_alone_pauses_no_other_node() -> None:
    witness = replace(CLUSTER.named("pg3"), name="w", runs=frozenset({Service.PGPOOL}))
    cluster = replace(CLUSTER, nodes=(*CLUSTER.nodes[:2], witness))
    facts = seen(with_pause(NO_PAUSE, PG1), with_pause(PAUSED, replace(PG3, node="w")))
    assert standstill.latest(cluster, "pg1", facts) == NO_PAUSE
    assert standstill.latest(cluster, "w", facts) == PAUSED


def test_reachable_nodes_of_an_older_package_are_named() -> None:
    facts = seen(with_pause(NO_PAUSE, PG1), PG2, replace(PG3, reachable=False))
    assert standstill.unaware(CLUSTER, facts) == ("pg2",)


def test_the_note_has_the_user_the_reason_and_the_actions_that_are_held_back() -> None:
    assert standstill.note(ENDED) == ""
    assert standstill.note(PAUSED, (Promote("pg2", 3),)) == (
        "the cluster is paused by root@pg1: new switches; held back: promote pg2 term 3; hint: pgpoolctl resume"
    )


@pytest.mark.parametrize(
    "changes",
    [{"serial": -1}, {"serial": 10**12}, {"since": -1.0}, {"since": 1e20}, {"by": "x" * (LONGEST_REASON + 1)},
     {"reason": "a\nb"}, {"reason": "\x1b[2J"}],
)  # fmt: skip
def test_a_record_that_no_agent_makes_is_implausible(changes: dict[str, object]) -> None:
    assert PAUSED.plausible
    assert not replace(PAUSED, **changes).plausible  # type: ignore[arg-type]
