"""A pause: nothing is decided on any node until it ends, whichever nodes were away when it began or ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.world import UNIT, Me, World, at_work, hands, make_cluster

from pgpool_cluster.decision.actions import Refuse, Wait
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.decision.facts.pause import NO_PAUSE, Pause
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground.errors import OperationError, UsageError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.operations import pausing, switchover
from pgpool_cluster.transport.protocol import (
    ClusterHistoryRequest,
    FollowRequest,
    MayStartRequest,
    NotePauseRequest,
    PauseRequest,
    PromoteRequest,
    StatusRequest,
    SwitchoverRequest,
    TermRequest,
)

STREAMS, NATIVE = Mode.STREAMING_REPLICATION, Mode.NATIVE_REPLICATION
PAUSE, RESUME = PauseRequest(True, "root@pg1", "new switches"), PauseRequest(False, "root@pg1")


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    """Three database nodes, with pg1 as the primary."""
    with at_work(World.healthy(make_cluster(STREAMS, 3))) as found:
        yield found


def here(world: World, name: str) -> Me:
    found = world.hosts[name].here
    assert found is not None
    return found


def primaries(world: World) -> list[str]:
    return [one.name for one in world.databases if one.up and one.data is not None and not one.data.standby]


def told(world: World, name: str = "pg2") -> list[str]:
    return [event.kind for event in world.on(name, ClusterHistoryRequest(100)).events]


def test_no_standby_is_promoted_in_a_pause_and_one_is_after_it(world: World) -> None:
    assert world.on("pg3", PAUSE).changed
    assert {host.record.pause.paused for host in world.hosts.values()} == {True}
    found = world.on("pg1", StatusRequest())
    assert found.healthy
    assert found.paused is not None
    assert found.paused.reason == "new switches"
    assert [event.kind for event in found.history] == ["pause"]
    world.cut(["pg1"])
    world.settle(world.hosts)
    assert primaries(world) == []
    assert {host.record.term for host in world.hosts.values()} == {1}
    assert world.users("pg1") == ["pg2", "pg3"], "nothing is detached either"
    assert world.on("pg3", RESUME).changed
    world.settle(world.hosts)
    assert primaries(world) == ["pg2"], world.shown()
    kinds = told(world)
    story = ["pause", "end-pause", "claim-term", "promote"]
    assert [kind for kind in kinds if kind in story] == story, kinds


def test_a_server_that_stops_in_a_pause_stays_down(world: World) -> None:
    world.on("pg1", PAUSE)
    for name in ("pg1", "pg2"):
        world.crash(name)
    before = world.state()
    for name in world.hosts:
        assert all(isinstance(action, Wait | Refuse) for action in world.step(name))
    assert world.state() == before
    world.on("pg3", RESUME)
    world.settle(world.hosts)
    assert world.is_healthy(), world.shown()


def test_a_node_that_was_away_learns_the_pause_and_its_end(world: World) -> None:
    world.cut(["pg3"])
    answer = world.on("pg1", PAUSE)
    assert answer.missing == ("pg3",)
    assert world.hosts["pg3"].record.pause == NO_PAUSE
    world.boot("pg3")
    world.settle(world.hosts)
    assert world.hosts["pg3"].record.pause == answer.pause
    world.cut(["pg3"])
    world.on("pg1", RESUME)
    world.boot("pg3")
    world.settle(world.hosts)
    assert not world.hosts["pg3"].record.pause.paused
    assert world.is_healthy(), world.shown()


def test_a_pause_survives_the_reboot_of_all_nodes(world: World) -> None:
    world.on("pg1", PAUSE)
    world.cut(list(world.hosts))
    for name in world.hosts:
        world.boot(name)
    world.settle(world.hosts)
    assert {host.record.pause.paused for host in world.hosts.values()} == {True}


def test_no_majority_records_a_term_of_a_node_that_does_not_know_the_pause(world: World) -> None:
    world.on("pg1", PAUSE)
    fingerprint = world.cluster.fingerprint
    for name in ("pg1", "pg2"):
        assert not world.on(name, TermRequest(2, fingerprint), "pg3").taken
    assert {host.record.term for host in world.hosts.values()} == {1}
    assert world.on("pg2", TermRequest(2, fingerprint, pause=1), "pg3").taken, "of an administrator's switchover"
    world.on("pg1", RESUME)
    assert world.on("pg1", TermRequest(3, fingerprint), "pg3").taken


def test_a_decision_of_a_node_that_does_not_know_the_pause_has_no_effect(world: World) -> None:
    world.on("pg1", PAUSE)
    requests = ((PromoteRequest(2, (0, 0)), "pg3"), (PromoteRequest(2, None), "w"), (FollowRequest("pg1"), "w"))
    for request, peer in requests:
        with pytest.raises(OperationError, match="the cluster is paused"):
            world.on("pg2", request, peer)
    assert primaries(world) == ["pg1"]


def test_an_administrator_changes_the_primary_in_a_pause(world: World) -> None:
    world.on("pg1", PAUSE)
    assert world.on("pg1", SwitchoverRequest("pg2")).primary == "pg2"
    assert primaries(world) == ["pg2"]
    assert {host.writes_to for host in world.hosts.values()} == {"pg2"}, "clients can write when the command returns"
    world.settle(world.hosts)
    assert world.is_healthy(), world.shown()
    assert world.hosts["pg1"].record.pause.paused


def test_a_failed_switchover_in_a_pause_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationError("it did not receive all WAL", hint="")

    world.on("pg1", PAUSE)
    monkeypatch.setattr(switchover, "_await_all", fail)
    with pytest.raises(OperationError, match="all WAL"):
        world.on("pg1", SwitchoverRequest("pg2"))
    assert primaries(world) == ["pg1"], world.shown()


def test_a_booted_standby_starts_in_a_pause_and_a_primary_as_without_one(world: World) -> None:
    world.on("pg1", PAUSE)
    instance = UNIT.split("@")[1].split(".")[0]
    for name in ("pg1", "pg2"):
        world.crash(name)
        assert world.on(name, MayStartRequest(instance)).go
    world.cut(["pg1"])
    world.on("pg3", RESUME)
    world.settle(world.hosts)
    world.on("pg2", PAUSE)
    world.boot("pg1")
    assert not world.hosts["pg1"].up, "a former primary does not start beside its successor"


def test_a_pause_needs_a_majority_and_changes_nothing_without_one(world: World) -> None:
    world.cut(["pg2", "pg3"])
    with pytest.raises(OperationError, match="too few nodes answer to pause the cluster"):
        world.on("pg1", PAUSE)
    assert world.hosts["pg1"].record.pause == NO_PAUSE
    assert [event.failed for event in world.on("pg1", ClusterHistoryRequest(9)).events if event.kind == "pause"] == [
        "too few nodes answer to pause the cluster"
    ]


def test_a_pause_that_only_a_minority_recorded_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Me, "note_pause", lambda self, _: self.me.name == "pg1")
    with pytest.raises(OperationError, match="only pg1 recorded it"):
        world.on("pg1", PAUSE)


def test_a_pause_is_refused_while_a_node_has_an_older_package(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Me.look_at_all

    def of_two_versions(self: Me, *, fresh: bool = False) -> ClusterFacts:
        found = look(self, fresh=fresh)
        return ClusterFacts({**found.nodes, "pg3": replace(found.of("pg3"), pause=None)})

    monkeypatch.setattr(Me, "look_at_all", of_two_versions)
    with pytest.raises(OperationError, match="cannot be paused: pg3 would not notice it") as refused:
        world.on("pg1", PAUSE)
    assert "same version" in refused.value.hint
    assert {host.record.pause for host in world.hosts.values()} == {NO_PAUSE}


def test_a_witness_pauses_nothing_not_even_itself() -> None:
    with at_work(World.healthy(make_cluster(STREAMS, 2, witness=True))) as world:
        with pytest.raises(OperationError, match="w runs no PostgreSQL") as refused:
            world.on("w", PAUSE)
        assert "on a node that runs PostgreSQL" in refused.value.hint
        assert world.hosts["w"].record.pause == NO_PAUSE
        assert world.on("pg1", PAUSE).missing == ()
        assert world.hosts["w"].record.pause.paused


def test_a_second_pause_or_end_changes_nothing(world: World) -> None:
    assert not world.on("pg1", RESUME).changed
    first = world.on("pg1", PAUSE)
    second = world.on("pg2", replace(PAUSE, by="root@pg2"))
    assert (second.changed, second.pause) == (False, first.pause)


@pytest.mark.parametrize("reason", ["x" * 201, "a\nb", "\x1b[2J"])
def test_an_unfit_reason_is_refused(reason: str, world: World) -> None:
    with pytest.raises(UsageError, match="the reason is too long"):
        pausing.change(here(world, "pg1"), replace(PAUSE, reason=reason))


def test_a_pause_is_recorded_only_from_a_node_with_the_same_cluster_yml_and_never_an_older_one(world: World) -> None:
    later = Pause(3, True, 1.0, "root@pg1", "")
    assert not world.on("pg2", NotePauseRequest(later, "other"), "pg1").taken
    for pause, taken in ((later, True), (replace(later, serial=2, paused=False), False), (later, True)):
        assert world.on("pg2", NotePauseRequest(pause, world.cluster.fingerprint), "pg1").taken is taken
    assert world.hosts["pg2"].record.pause == later


def test_in_native_replication_a_node_that_missed_writes_is_recorded_in_a_pause() -> None:
    """Otherwise that node could serve first after a power cut of all nodes, without acknowledged writes."""
    with at_work(World.healthy(make_cluster(NATIVE, 3))) as world:
        world.on("pg1", PAUSE)
        world.cut(["pg3"])
        world.write()
        assert [world.hosts[name].record.led for name in ("pg1", "pg2", "pg3")] == [2, 2, 1]
        world.cut(["pg1", "pg2"])
        for name in world.hosts:
            world.boot(name)
        world.on("pg1", RESUME)
        world.settle(world.hosts)
        data: Any = world.hosts["pg1"].data
        assert world.acknowledged <= data.writes


def test_the_record_of_a_pause_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    record = Record(system=7, term=2, pause=Pause(3, True, 1000.5, "root@pg1", "new switches"))
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == record
    assert NodeFacts("pg1").pause is None
