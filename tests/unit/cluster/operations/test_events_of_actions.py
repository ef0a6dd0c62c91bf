"""Actions, failovers, claims and an administrator's commands are events, with their reasons and failures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.cluster.world import World, at_work, hands, make_cluster

from pgpool_cluster.decision.actions import Attach, Clone, Detach, Promote, Wait
from pgpool_cluster.decision.reports.events import Event
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground.errors import ClusterError, OperationError
from pgpool_cluster.machine import pgpool
from pgpool_cluster.operations import act
from pgpool_cluster.transport.protocol import (
    AttachRequest,
    DetachRequest,
    HoldRequest,
    RecoverRequest,
    SwitchoverRequest,
)


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    """Three database nodes, with pg1 as the primary."""
    with at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))) as found:
        yield found


def events(world: World, name: str) -> list[Event]:
    here = world.hosts[name].here
    assert here is not None
    return list(here.history.recent(100)[0])


def kinds(world: World, name: str) -> list[str]:
    return [event.kind for event in events(world, name)]


def act_on(world: World, name: str, action: Attach | Detach | Clone | Promote | Wait) -> None:
    here = world.hosts[name].here
    assert here is not None
    with world.within(name):
        act.perform(here, action)


def test_an_action_is_an_event_with_its_reason(world: World) -> None:
    act_on(world, "pg2", Detach("pg3", "it lags"))
    detached = events(world, "pg2")[-1]
    assert (detached.kind, detached.what, detached.why, detached.failed) == (
        "detach", "detach pg3: it lags", "it lags", "",
    )  # fmt: skip


def test_a_failed_action_is_an_event_with_its_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationError("pcp: connection refused", hint="")

    monkeypatch.setattr(pgpool, "attach", fail)
    with pytest.raises(OperationError):
        act_on(world, "pg2", Attach("pg3"))
    assert events(world, "pg2")[-1].failed == "pcp: connection refused"


def test_an_action_that_does_nothing_is_not_an_event(world: World) -> None:
    act_on(world, "pg2", Wait("pg2", "pg1 is away"))
    here = world.hosts["pg3"].here
    assert here is not None
    for _ in range(2):
        here.under_way.copies.begin("pg1")
        here.under_way.copies.failed(OperationError("no space left", hint=""))
    assert not here.under_way.copies.due
    act_on(world, "pg3", Clone("pg3", "pg1"))
    assert (events(world, "pg2"), events(world, "pg3")) == ([], [])


def test_a_failover_is_recorded_by_the_new_primary_and_each_node_informs_its_own_pgpool(world: World) -> None:
    world.cut(["pg1"])
    for name in ("pg2", "pg3", "pg2", "pg3", "pg2", "pg3"):
        world.step(name)
    assert kinds(world, "pg2") == ["claim-term", "promote", "create-slots", "redirect", "attach"], world.shown()
    claimed, promoted, *_ = events(world, "pg2")
    assert (claimed.term, promoted.term) == (2, 2)
    assert promoted.why == "no primary is in sight, and it has received the most WAL"
    assert "pg1 is unreachable" in promoted.seen
    assert kinds(world, "pg3") == ["redirect", "follow", "attach"], world.shown()
    redirected = events(world, "pg3")[0]
    assert (redirected.what, redirected.why) == ("redirect pgpool of pg3 primary pg2", "that node is the primary")


def test_in_native_replication_the_leader_records_a_failover() -> None:
    with at_work(World.healthy(make_cluster(Mode.NATIVE_REPLICATION, 3))) as world:
        world.cut(["pg3"])
        world.check("pg3")
        given_up, *_, failover = events(world, "pg1")
        assert (given_up.kind, given_up.term) == ("given-up", 1)
        assert (failover.kind, failover.what) == ("failover", "failover of pg3: dismiss pg3 term 2")
        assert failover.why == "pgpool-II has given up pg3"


def test_a_promotion_that_fails_is_an_event_of_the_requesting_node_too(world: World) -> None:
    world.cut(["pg3"])
    with pytest.raises(ClusterError):
        act_on(world, "pg2", Promote("pg3", 2))
    (event,) = events(world, "pg2")
    assert (event.kind, event.failed) == ("promote", "pg3 is out of reach")


def test_a_claim_that_finds_no_majority_is_an_event(world: World) -> None:
    world.cut(["pg1", "pg3"])
    with pytest.raises(OperationError):
        act_on(world, "pg2", Promote("pg2", 2))
    claimed = next(event for event in events(world, "pg2") if event.kind == "claim-term")
    assert claimed.failed == "only pg2 recorded term 2"


def test_commands_of_an_administrator_are_events(world: World) -> None:
    world.on("pg1", SwitchoverRequest("pg2"))
    assert "switchover" in kinds(world, "pg1")
    world.settle(world.hosts)
    world.on("pg2", DetachRequest("pg3"))
    assert kinds(world, "pg3")[-1] == "hold"
    world.on("pg3", HoldRequest(hold=True))
    assert kinds(world, "pg3").count("hold") == 1, "it was held already"
    world.on("pg2", AttachRequest("pg3"))
    assert kinds(world, "pg3")[-1] == "release"
    assert events(world, "pg2")[-1].why == "an administrator requested it"
    assert kinds(world, "pg2")[-2:] == ["detach", "attach"]
    world.on("pg1", RecoverRequest("pg3", force=True))
    recovered = next(event for event in events(world, "pg3") if event.kind == "recover")
    assert (recovered.what, recovered.failed) == ("recover pg3 by a new copy", "")
    with pytest.raises(ClusterError):
        world.on("pg2", RecoverRequest("pg2"))
    assert "is the primary" in next(event for event in events(world, "pg2") if event.kind == "recover").failed
