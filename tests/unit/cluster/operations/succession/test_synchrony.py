"""The primary decides which standbys commits wait for, and which ones a failover does not need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.decision.test_decide_rests import boot, command, cut, lose, slow, turns, write
from tests.unit.cluster.nodes import away, healthy, make_cluster, seen, standby
from tests.unit.cluster.wired import Json, answering
from tests.unit.cluster.world import World, at_work, hands
from tests.unit.cluster.world import make_cluster as make_world_cluster

from pgpool_cluster.decision.facts.excuse import NO_EXCUSE, Excuse
from pgpool_cluster.decision.facts.facts import ClusterFacts, Lsn
from pgpool_cluster.decision.reports.status import healthy as is_healthy
from pgpool_cluster.decision.reports.status import report
from pgpool_cluster.definition.cluster import Cluster, Mode, Parameter
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations.succession import claims, synchrony
from pgpool_cluster.operations.succession.synchrony import Sender, Senders, Synchrony, have_all, kept, to_drop, to_list
from pgpool_cluster.transport.peers import Peers

CLUSTER = make_cluster()
LED = Record(system=7000, term=1, led=1, standbys_came=True)
NOBODY: frozenset[str] = frozenset()


# The standbys that commits wait for


def test_a_standby_that_is_away_for_long_is_dropped_while_another_one_receives() -> None:
    facts = seen(*healthy()[:2], away("pg3"))
    assert to_drop(CLUSTER, "pg1", facts, (), frozenset({"pg3"})) == ("pg3",)
    assert to_drop(CLUSTER, "pg1", facts, (), NOBODY) == ()


def test_no_standby_is_dropped_if_too_few_would_receive() -> None:
    facts = seen(healthy()[0], replace(healthy()[1], streaming=False), away("pg3"))
    assert to_drop(CLUSTER, "pg1", facts, (), frozenset({"pg2", "pg3"})) == ()


@pytest.mark.parametrize("state", [{"held": True}, {"half_copied": True}], ids=str)
def test_a_standby_out_of_use_is_dropped_at_once(state: dict[str, Any]) -> None:
    first, second, third = healthy()
    assert to_drop(CLUSTER, "pg1", seen(first, second, replace(third, **state)), (), NOBODY) == ("pg3",)


def test_a_standby_is_listed_again_once_it_receives_and_lags_little() -> None:
    first, second, third = healthy()
    assert to_list(CLUSTER, first, seen(first, second, third), ("pg3",)) == ("pg3",)
    assert to_list(CLUSTER, first, seen(first, second, replace(third, held=True)), ("pg3",)) == ()
    ahead = replace(first, position=Lsn(1 << 30))
    assert to_list(CLUSTER, ahead, seen(ahead, second, third), ("pg3",)) == ()


def test_a_held_standby_is_listed_if_too_few_others_receive() -> None:
    first, _, third = healthy()
    assert to_list(CLUSTER, first, seen(first, away("pg2"), replace(third, held=True)), ("pg3",)) == ("pg3",)


def test_enough_listed_standbys_must_have_flushed_everything() -> None:
    both = {"pg2": Sender(Lsn(90), True), "pg3": Sender(Lsn(100), False)}
    assert not have_all(CLUSTER, "pg1", ("pg3",), Senders(Lsn(100), both), Lsn(100))
    assert have_all(CLUSTER, "pg1", ("pg3",), Senders(Lsn(100), both), Lsn(90))


def test_a_primary_keeps_only_its_own_valid_excuses_in_its_next_term() -> None:
    mine = replace(LED, excuse=Excuse(1, 3, ("pg2", "pg3")), dropped=("pg3",))
    assert kept(mine) == ("pg3",)
    assert kept(replace(mine, led=0)) == ()
    assert kept(replace(mine, excuse=Excuse(2, 0, ("pg3",)))) == ()


def test_a_setting_of_the_administrators_own_is_left_alone() -> None:
    own = replace(CLUSTER, postgresql_conf=(Parameter("synchronous_standby_names", "*"),))
    assert CLUSTER.names_standbys
    assert not own.names_standbys


# Recording an excuse


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(paths, "RECORD", tmp_path / "record.json")
    database: Any = SimpleNamespace()
    return Here(CLUSTER, CLUSTER.named("pg1"), database, Peers.of(CLUSTER, "pg1"), LED)


def test_a_node_records_only_later_excuses_and_none_of_an_old_term(here: Here) -> None:
    assert here.note_excuse(Excuse(1, 2, ("pg3",)))
    assert here.note_excuse(Excuse(1, 2, ("pg3",)))  # sent again, since few had recorded it
    assert not here.note_excuse(Excuse(1, 2, ()))
    assert not here.note_excuse(Excuse(1, 1, ()))
    here.note_term(2)
    assert not here.note_excuse(Excuse(1, 3, ()))
    assert here.note_excuse(Excuse(2, 0, ()))
    assert Record.load(paths.RECORD) == here.record


def telling(monkeypatch: pytest.MonkeyPatch, **answers: dict[str, Any]) -> list[dict[str, Any]]:
    """Make pg2, the only other node that answers, answer each kind of request with this; return the requests."""
    asked: list[dict[str, Any]] = []

    def said(name: str, request: Json) -> object:
        if name != "pg2":
            return None
        asked.append(request)
        return answers[request["do"]]

    answering(monkeypatch, said)
    return asked


def test_a_promotion_based_on_an_older_excuse_fails(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old primary may have listed a standby again between the decision and the claim."""
    telling(monkeypatch, term={"taken": True, "excuse": [1, 3]}, excuse={"taken": True})
    with pytest.raises(OperationError, match="has answered since"):
        claims.claim_promotion(here, 2, standby("pg1", "pg2"), decided=(1, 2))
    assert here.record.led == 1


def test_a_new_primary_voids_the_excuses_of_former_ones(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.note_excuse(Excuse(1, 3, ("pg3",)))
    asked = telling(monkeypatch, term={"taken": True, "excuse": [1, 3]}, excuse={"taken": True})
    claims.claim_promotion(here, 2, standby("pg1", "pg2"), decided=(1, 3))
    assert here.record.excuse == Excuse(2, 0, ())
    assert asked[-1] == {"do": "excuse", "term": 2, "serial": 0, "names": [], "file": CLUSTER.fingerprint,
                         "version": 2}  # fmt: skip


def test_without_a_majority_that_has_recorded_it_there_is_no_new_primary(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling(monkeypatch, term={"taken": True, "excuse": [0, 0]}, excuse={"taken": False})
    with pytest.raises(OperationError, match="too few nodes recorded the start of term 2"):
        claims.claim(here, 2)
    assert here.record.led == 1


# Applying the intended list


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    at_once = SimpleNamespace(Thread=lambda target, **_: SimpleNamespace(start=target))
    monkeypatch.setattr(synchrony, "time", clock)
    monkeypatch.setattr(synchrony, "threading", at_once)
    return clock


def test_apply_is_requested_again_until_the_server_runs_with_the_intended_list(
    here: Here, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def control(verb: str, _: str = "") -> None:
        assert verb == "apply"
        asked.append(clock.now)
        if len(asked) == 1:
            raise OperationError("apply: cluster.yml:3: a tab", hint="take it out")

    monkeypatch.setattr(units, "control", control)
    telling(monkeypatch, excuse={"taken": True})
    here.remember(standbys_came=False)
    first, *others = healthy()
    tending = Synchrony(here)
    tending.tend(seen(first, *others))
    assert here.record.standbys_came
    for _ in range(12):
        clock.now += 1
        with pytest.raises(OperationError, match="a tab"):
            tending.tend(seen(replace(first, laid=len(asked) == 2), *others))
        if len(asked) == 2:
            break
    assert asked == [1000.0, 1010.0]
    for _ in range(20):
        clock.now += 1
        tending.tend(seen(first, *others))
    assert len(asked) == 2


def test_a_node_learns_from_another_that_standbys_have_connected(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that was copied while too few received, and takes over, must not acknowledge commits alone."""
    monkeypatch.setattr(units, "control", lambda *_: None)
    here.remember(standbys_came=False)
    first, second, _ = healthy()
    few = replace(second, streaming=False)
    Synchrony(here).tend(seen(first, few))
    assert not here.record.standbys_came
    Synchrony(here).tend(seen(first, replace(few, standbys_came=True)))
    assert here.record.standbys_came


def test_a_cluster_whose_commits_do_not_wait_as_they_should_is_not_healthy() -> None:
    first, second, third = healthy()
    assert is_healthy(CLUSTER, seen(first, second, third))
    facts = seen(first, replace(second, laid=False), third)
    assert not is_healthy(CLUSTER, facts)
    assert "pgpoolctl apply, on pg2" in report(CLUSTER, facts, {}).notes["pg2"]


# Whole clusters (world.py), where a promotion without an acknowledged write is an error


@pytest.fixture
def five() -> Iterator[World]:
    with hands():
        world = World.healthy(make_world_cluster(Mode.STREAMING_REPLICATION, 5))
        with at_work(world):
            yield world


PG2, PG3_TO_PG5, PG4_AND_PG5 = 0b00010, 0b11100, 0b11000


def promoted(world: World) -> bool:
    return any(host.up and host.data and not host.data.standby for host in world.databases)


def told(world: World, *story: Any) -> bool:
    for event in story:
        event(world)
    return promoted(world)


def test_the_only_standby_that_has_a_commit_is_lost_with_the_primary(five: World) -> None:
    """Finding D2, A."""
    assert not told(five, slow(PG3_TO_PG5), write(0), lose(PG2), turns(True))


def test_a_standby_that_was_away_before_is_excused(five: World) -> None:
    assert told(five, cut(PG2), turns(True), write(0), lose(0))


def test_no_standby_is_excused_before_others_have_its_commits(five: World) -> None:
    assert not told(five, slow(PG3_TO_PG5), write(0), cut(PG2), turns(True), lose(0), turns(True))
    assert five.hosts["pg3"].record.excuse.names == ()


def test_the_excuse_is_over_before_commits_wait_for_a_standby_again(five: World) -> None:
    back = [cut(PG2), turns(True), boot(1, False), turns(True)]
    assert not told(five, *back, slow(PG3_TO_PG5), write(0), lose(PG2), turns(True))


def test_commits_do_not_wait_for_a_standby_that_an_administrator_keeps_out_of_use(five: World) -> None:
    """Finding D2, C."""
    told(five, command("detach", 1), turns(True))
    assert '"pg2"' not in five.hosts["pg1"].names
    assert told(five, slow(PG4_AND_PG5), write(0), lose(PG2), turns(True))


def test_an_administrator_may_give_up_writes_that_no_other_node_has(five: World) -> None:
    assert not told(five, slow(PG3_TO_PG5), write(0), lose(PG2), turns(True))
    five.promised = False
    assert five.command("accept", "pg3") == ""
    assert promoted(five)


def test_a_record_of_an_older_package_has_no_excuse(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"system": 7, "term": 1}', encoding="utf-8")
    assert Record.load(path) == Record(system=7, term=1, excuse=NO_EXCUSE)


def test_cluster_facts_have_the_latest_excuse_in_sight() -> None:
    first, second, third = healthy()
    known = (replace(first, excuse=Excuse(1, 9, ("pg3",))), replace(second, excuse=Excuse(2, 0, ())), third)
    assert seen(*known).excuse == Excuse(2, 0, ())
    assert ClusterFacts().excuse == NO_EXCUSE


def test_the_list_names_every_node_but_the_dropped_ones() -> None:
    cluster: Cluster = CLUSTER
    assert cluster.standby_names(came=True, dropped=("pg2",)) == 'ANY 1 ("pg1", "pg3")'
    assert cluster.standby_names(came=False) == ""


def test_a_busy_node_reports_its_current_excuse(here: Here) -> None:
    here.note_excuse(Excuse(1, 4, ("pg3",)))
    assert here._busy(healthy()[0], 1.0).excuse == Excuse(1, 4, ("pg3",))
