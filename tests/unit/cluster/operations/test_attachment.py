"""An administrator attaches and detaches nodes from any node, in the cluster in memory (world.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.cluster.world import Wires, World, at_work, hands, make_cluster

from pgpool_cluster.definition.cluster import Cluster, Mode, Node
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool
from pgpool_cluster.operations import attachment
from pgpool_cluster.transport.protocol import AttachRequest, DetachRequest, Done, Request

STREAMS, NATIVE = Mode.STREAMING_REPLICATION, Mode.NATIVE_REPLICATION


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
    assert (world.view["pg3"], world.hosts["pg3"].record.held) == (False, True)
    world.on("pg2", DetachRequest("pg3"))  # a repetition changes nothing
    world.on("pg2", AttachRequest("pg3"))
    assert (world.view["pg3"], world.hosts["pg3"].record.held) == (True, False)


def test_a_node_detached_by_a_recovery_is_not_held(world: World) -> None:
    world.on("pg1", DetachRequest("pg3", recovering=True))
    assert (world.view["pg3"], world.hosts["pg3"].record.held) == (False, False)


def test_the_primary_is_detached_in_a_recovery_only(world: World) -> None:
    with pytest.raises(OperationError, match="pg1 is the primary") as refused:
        world.on("pg2", DetachRequest("pg1"))
    assert "pgpoolctl switchover" in refused.value.hint
    world.on("pg2", DetachRequest("pg1", recovering=True))
    assert not world.view["pg1"]


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
