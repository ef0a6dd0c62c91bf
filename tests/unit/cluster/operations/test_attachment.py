"""An administrator attaches and detaches nodes from any node, in the cluster in memory (world.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.cluster.world import Wires, World, at_work, hands, make_cluster

from pgpool_cluster.definition.cluster import Cluster, Mode, Node
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.machine import pgpool
from pgpool_cluster.operations import attachment
from pgpool_cluster.transport.protocol import (
    AttachRequest,
    DetachRequest,
    Done,
    LetGoRequest,
    Request,
    TakeBackRequest,
)

STREAMS, NATIVE = Mode.STREAMING_REPLICATION, Mode.NATIVE_REPLICATION
ALL = ["pg1", "pg2", "pg3"]


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    """A healthy cluster of three nodes, with pg1 as the primary."""
    with at_work(World.healthy(make_cluster(STREAMS, 3))) as found:
        yield found


@pytest.fixture
def native() -> Iterator[World]:
    """A healthy cluster of three nodes, each of which is a primary."""
    with at_work(World.healthy(make_cluster(NATIVE, 3))) as found:
        yield found


def test_a_node_is_detached_held_and_attached_again(world: World) -> None:
    world.on("pg1", DetachRequest("pg3"))
    assert (world.users("pg3"), world.hosts["pg3"].record.held) == ([], True)
    world.on("pg2", DetachRequest("pg3"))  # a repetition changes nothing
    world.settle(world.hosts)
    assert world.users("pg3") == [], "no agent attaches a held node"
    world.on("pg2", AttachRequest("pg3"))
    assert (world.users("pg3"), world.hosts["pg3"].record.held) == (ALL, False)


def sent(monkeypatch: pytest.MonkeyPatch, silent: str = "") -> list[tuple[str, object]]:
    """Return a list of the requests between agents; `silent`: a node whose agent answers none of those about views."""
    found: list[tuple[str, object]] = []
    ask = Wires.ask

    def asked(self: Wires, name: str, request: Request[Any], **more: object) -> Any:
        if isinstance(request, TakeBackRequest | LetGoRequest):
            found.append((name, request))
            if name == silent:
                raise ServerError(f"{name} does not answer", hint="pgpoolctl status")
        return ask(self, name, request, **more)

    monkeypatch.setattr(Wires, "ask", asked)
    return found


def test_without_a_watchdog_the_other_agents_are_asked_to_inform_theirs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sent(monkeypatch)
    world.on("pg1", DetachRequest("pg3", recovering=True))
    assert asked == [("pg2", LetGoRequest("pg3")), ("pg3", LetGoRequest("pg3"))]
    assert world.users("pg3") == []
    asked.clear()
    world.on("pg2", AttachRequest("pg3", recovering=True))
    assert asked == [("pg1", TakeBackRequest("pg3")), ("pg3", TakeBackRequest("pg3"))]
    assert world.users("pg3") == ALL


def test_a_watchdog_informs_the_other_pgpools(native: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = sent(monkeypatch)
    native.on("pg1", DetachRequest("pg3", recovering=True))
    assert (asked, native.users("pg3")) == ([], [])


def test_an_agent_that_does_not_answer_informs_its_pgpool_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(monkeypatch, silent="pg2")
    world.on("pg1", DetachRequest("pg3"))
    assert world.users("pg3") == [], "its next turn has detached the node, while the command waited"
    world.on("pg1", AttachRequest("pg3"))
    assert world.users("pg3") == ALL


def test_a_pgpool_that_has_let_a_node_go_already_does_so_again(world: World) -> None:
    for _ in range(2):
        assert world.on("pg2", LetGoRequest("pg3"), "pg1") == Done()
        assert world.users("pg3") == ["pg1", "pg3"]
    assert world.on("pg2", TakeBackRequest("pg3"), "pg1") == Done()
    assert world.users("pg3") == ALL


@pytest.mark.parametrize("request_", [LetGoRequest("pg3"), TakeBackRequest("pg3")])
def test_a_witness_may_not_change_the_view_of_another_pgpool(request_: Request[Any]) -> None:
    with at_work(World.healthy(make_cluster(STREAMS, 3, witness=True))) as world:
        before = world.state()
        with pytest.raises(OperationError, match="may not send"):
            world.on("pg2", request_, "w")
        assert world.state() == before


def test_the_pgpool_of_a_witness_is_informed_too() -> None:
    with at_work(World.healthy(make_cluster(STREAMS, 3, witness=True))) as world:
        world.on("pg1", DetachRequest("pg3"))
        assert world.users("pg3") == []


# After a recovery or a switchover


def wait(world: World, name: str) -> None:
    here = world.hosts[name].here
    assert here is not None
    with world.within(name):
        attachment.await_attached(here, lambda _: None)


def detached(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detach pg2, whose data is right, everywhere; from now on, no agent takes a turn."""
    monkeypatch.setattr(world, "step", lambda _: ())
    for name in ALL:
        world.on(name, LetGoRequest("pg2"))
    assert world.users("pg2") == []


def test_a_node_that_is_ready_is_attached_by_every_pgpool(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    detached(world, monkeypatch)
    asked = sent(monkeypatch)
    began = world.clock
    wait(world, "pg2")
    assert (world.users("pg2"), world.clock) == (ALL, began)
    assert asked == [("pg1", TakeBackRequest("pg2")), ("pg3", TakeBackRequest("pg2"))]


def test_a_pgpool_that_does_not_attach_the_node_within_a_minute_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    detached(world, monkeypatch)
    sent(monkeypatch, silent="pg3")
    began = world.clock
    with pytest.raises(OperationError, match="pg2 is ready, but pgpool-II of pg3 has not attached it") as failure:
        wait(world, "pg2")
    assert failure.value.hint == "pgpoolctl attach pg2"
    assert 60 <= world.clock - began <= 70


def test_a_pgpool_that_does_not_run_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    detached(world, monkeypatch)
    world._end_pool(world.hosts["pg2"])
    wait(world, "pg2")
    assert world.users("pg2") == ["pg1", "pg3"]


def test_a_pgpool_that_does_not_learn_the_new_primary_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world.hosts["pg1"].here
    assert here is not None
    with world.within("pg1"):
        attachment.await_redirected(here, "pg1")
        monkeypatch.setattr(world, "step", lambda _: ())
        world.hosts["pg3"].writes_to = "pg2"
        with pytest.raises(OperationError, match="pg1 is the primary, but pgpool-II of pg3 does not send writes to it"):
            attachment.await_redirected(here, "pg1")


def test_a_node_detached_by_a_recovery_is_not_held(world: World) -> None:
    world.on("pg1", DetachRequest("pg3", recovering=True))
    assert (world.users("pg3"), world.hosts["pg3"].record.held) == ([], False)


def test_the_primary_is_detached_in_a_recovery_only(world: World) -> None:
    with pytest.raises(OperationError, match="pg1 is the primary") as refused:
        world.on("pg2", DetachRequest("pg1"))
    assert "pgpoolctl switchover" in refused.value.hint
    world.on("pg2", DetachRequest("pg1", recovering=True))
    assert world.users("pg1") == []


@pytest.mark.parametrize("verb", [AttachRequest, DetachRequest])
def test_a_node_whose_pgpool_is_down_forwards_the_request(
    verb: type[AttachRequest | DetachRequest], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def ask(_: Wires, name: str, request: Request[Any], **__: object) -> Done:
        asked.append((name, request))
        return Done()

    monkeypatch.setattr(Wires, "ask", ask)
    world.hosts["pg1"].pool = False
    world.pools.remove("pg1")
    world.on("pg1", verb("pg3"))
    assert asked == [("pg2", verb("pg3"))]


@pytest.mark.parametrize("verb", [AttachRequest, DetachRequest])
def test_without_any_pgpool_the_request_fails(verb: type[AttachRequest | DetachRequest], world: World) -> None:
    for host in world.hosts.values():
        host.pool = False
    with pytest.raises(OperationError, match="no pgpool-II answers"):
        world.on("pg1", verb("pg3"))


def test_a_standby_that_does_not_follow_the_primary_is_not_attached(world: World) -> None:
    world.hosts["pg3"].data.follows = "pg2"  # type: ignore[union-attr]
    with pytest.raises(OperationError, match="pg3 does not follow pg1") as refused:
        world.on("pg1", AttachRequest("pg3"))
    assert refused.value.hint == "pgpoolctl recover pg3"


def test_a_node_without_every_write_is_not_attached(native: World) -> None:
    native.hosts["pg3"].here.remember(led=0)  # type: ignore[union-attr]
    native.hosts["pg1"].here.remember(term=2, led=2)  # type: ignore[union-attr]
    with pytest.raises(OperationError, match="pg3 does not have every write"):
        native.on("pg1", AttachRequest("pg3"))


def test_the_last_node_with_every_write_is_not_detached(native: World) -> None:
    native.cut(["pg2", "pg3"])
    with pytest.raises(OperationError, match="pg1 is the only node that has every write"):
        native.on("pg1", DetachRequest("pg1"))


def test_another_refusal_of_pgpool_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def detach(_: Cluster, __: Node) -> None:
        raise OperationError("pcp_detach_node: no such node", hint="pgpool.conf")

    monkeypatch.setattr(pgpool, "detach", detach)
    with pytest.raises(OperationError, match="no such node"):
        world.on("pg1", DetachRequest("pg3"))


def test_a_pgpool_that_does_not_agree_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgpool, "detach", lambda *_: None)  # reports success, but does not detach
    monkeypatch.setattr(attachment, "_EVERYWHERE_SECONDS", 0.0)
    with pytest.raises(OperationError, match="pgpool-II of pg1 and pg2 and pg3 still sends clients to pg3"):
        world.on("pg1", DetachRequest("pg3"))
