"""A node that comes back after a failover: in the world in memory (world.py), with the package's own agents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cluster.world import World, at_work, hands, make_cluster

from pgpool_cluster.decision.facts.diverged_report import DivergedReport
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.wal import diverged
from pgpool_cluster.node.node import Here
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import MayStartRequest

NAMES = ("pg1", "pg2", "pg3")


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


def replaced(*, automatic: bool) -> World:
    """Return three nodes; pg1 lost its power with a write that no other node has, and pg2 took its place."""
    cluster = replace(make_cluster(Mode.STREAMING_REPLICATION, 3), automatic_return=automatic)
    world = World.healthy(cluster)
    with at_work(world):
        world.write()
        world.write(lambda _: False)
        world.cut(["pg1"])
        world.settle(NAMES)
        assert writable(world) == ["pg2"]
    return world


def writable(world: World) -> list[str]:
    return [one.node for one in world.seen().members(world.cluster) if one.writable]


@pytest.mark.parametrize("early", [False, True])
def test_a_former_primary_becomes_a_standby_and_no_one_types_anything(early: bool) -> None:
    world = replaced(automatic=True)
    with at_work(world):
        world.boot("pg1", early=early)
        assert writable(world) == ["pg2"]
        world.settle(NAMES)
        assert world.is_healthy(), world.shown()
        data = world.hosts["pg1"].data
        assert data is not None
        assert (data.follows, data.writes) == ("pg2", {1})
        assert world.hosts["pg1"].up


def test_with_manual_return_it_waits_for_the_command_that_status_names() -> None:
    world = replaced(automatic=False)
    with at_work(world):
        world.boot("pg1")
        world.settle(NAMES)
        assert not world.hosts["pg1"].up
        assert "pgpoolctl recover pg1" in world.told["pg1"]
        world.command("recover", "pg1")
        world.settle(NAMES)
        assert world.is_healthy(), world.shown()


@pytest.mark.parametrize(("automatic", "why"), [(True, "rejoin pg1 source pg2"), (False, "waits for an administrator")])
def test_its_server_may_not_start_with_its_own_data(automatic: bool, why: str) -> None:
    """The journal of the unit has the same reason as `status`."""
    world = replaced(automatic=automatic)
    with at_work(world):
        world.boot("pg1")
        answer = world.on("pg1", MayStartRequest("15-main"))
        assert not answer.go
        assert answer.why.startswith(why)


def test_a_held_node_stays_as_it_is_until_it_is_recovered() -> None:
    world = replaced(automatic=True)
    with at_work(world):
        world.hosts["pg1"].record = replace(world.hosts["pg1"].record, held=True)
        world.boot("pg1")
        world.settle(NAMES)
        assert not world.hosts["pg1"].up
        assert "an administrator detached it; hint: pgpoolctl recover pg1" in world.told["pg1"]
        world.command("recover", "pg1")
        world.settle(NAMES)
        assert world.is_healthy(), world.shown()


def test_nodes_whose_commits_an_administrator_gave_up_keep_their_data() -> None:
    """pg1 and pg2 alone have an acknowledged commit, and pg3 is made the primary without it."""
    world = World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))
    with at_work(world):
        world.write(lambda name: name == "pg2")
        world.hosts["pg2"].slow = world.hosts["pg3"].slow = True
        world.cut(["pg1"])
        world._end_server(world.hosts["pg2"])
        world.hosts["pg2"].by_hand = True
        world.settle(NAMES)
        assert "--accept-loss pg3" in world.told["pg3"], world.shown()
        world.promised = False
        assert world.command("accept", "pg3") == ""
        assert world.hosts["pg2"].record.loss == world.hosts["pg3"].record.led
        world.boot("pg1")
        world.settle(NAMES)
        assert writable(world) == ["pg3"]
        data = world.hosts["pg1"].data
        assert data is not None
        assert data.writes == {1}, world.shown()
        assert "accepted the loss of commits" in world.told["pg1"]
        world.command("recover", "pg1")
        assert world.hosts["pg1"].data != data


def test_a_new_record_of_diverged_wal_is_in_the_next_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster(Mode.STREAMING_REPLICATION, 3, witness=True)
    here = Here(cluster, cluster.named("w"), None, Peers({}), Record())
    monkeypatch.setattr(paths, "DIVERGED", tmp_path / "diverged")
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    monkeypatch.setattr(pgpool, "has_address", lambda _: False)
    monkeypatch.setattr(pgpool, "look", lambda *_: None)
    with at_work(World(cluster)):
        assert Here.look(here).diverged == ()
        report = DivergedReport("20261130T171000Z-w-1", 1, "0/10", "0/20", 1, 0, 0)
        kept = diverged.store(paths.DIVERGED, report, [], "")
        here.forget_looks()
        assert Here.look(here).diverged == (kept,)


def test_a_fault_of_the_copy_is_retried_and_then_left_to_an_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    world = replaced(automatic=True)
    tries: list[str] = []

    def copy(here: Here, source: str, **_: object) -> None:
        tries.append(f"{here.me.name} from {source}")
        raise OperationError("the WAL that only pg1 has cannot be kept: the disk is full", hint="free space")

    working = world.copy
    monkeypatch.setattr(world, "copy", copy)
    with at_work(world):
        world.boot("pg1")
        here = world.hosts["pg1"].here
        assert here is not None
        for _ in range(30):
            here.under_way.returns._next = 0.0
            world.step("pg1")
        assert len(tries) == 2 * 8, "pg_rewind and a base backup, eight times"
        assert "pgpoolctl recover pg1" in world.told["pg1"]
        monkeypatch.setattr(world, "copy", working)
        world.command("recover", "pg1")
        world.settle(NAMES)
        assert world.is_healthy(), world.shown()
