"""The agent's chores, one by one: when each is done, with which node, and how often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, orphaned, pgpool, primary, seen, standby

from pgpool_cluster.agent import housekeeping
from pgpool_cluster.agent.housekeeping import Housekeeping
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.decision.actions import CreateSlots
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Archive, Cluster
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.wal.archive import Keeper
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import postgresql_service, timelines, wal_space
from pgpool_cluster.operations.accounts import user_lists
from pgpool_cluster.operations.accounts.own_database import OwnDatabase
from pgpool_cluster.operations.proof import Proof
from pgpool_cluster.operations.succession.synchrony import Synchrony
from pgpool_cluster.operations.wal_space import Held
from pgpool_cluster.recovery import target

STREAMS = seen(replace(primary("pg1"), pgpool=pgpool()), standby("pg2", "pg1"), standby("pg3", "pg1"))
ALL_IN = seen(primary("pg1"), primary("pg2"), primary("pg3"))
FILLS = Held("pg3", 10 * 2**30, 0.85, ours=True)


class Node:
    """A node of a healthy cluster; `done`: its chores with their effects, without those that have nothing to do."""

    def __init__(self, name: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[object] = []
        self.facts = STREAMS
        self.clock = Clock(0.0)
        self.held: Held | None = None
        self.there = Users(5, {"app": "e"}, "m")
        peers: Any = SimpleNamespace(ask=None, ask_all=None)
        self.here = Here(cluster, cluster.named(name), None, peers, Record(system=7000, term=1))
        vigil: Any = SimpleNamespace(tend=lambda _: self.done.append("vigil"))
        self.chores = Housekeeping(self.here, vigil)
        monkeypatch.setattr(housekeeping, "time", self.clock)
        monkeypatch.setattr(units, "control", lambda _: None)
        monkeypatch.setattr(units, "hang_up", lambda _, node: self.done.append(f"hang up on {node.name}"))
        monkeypatch.setattr(Here, "look", lambda here: self.facts.of(here.me.name))
        monkeypatch.setattr(timelines, "tend", lambda *_: None)
        for kind in (Synchrony, Proof):
            monkeypatch.setattr(kind, "tend", lambda *_: None)
        monkeypatch.setattr(OwnDatabase, "tend", self._own_database)
        monkeypatch.setattr(Keeper, "tend", lambda _, **words: self.done.append(words))
        monkeypatch.setattr(wal_space, "held", self._held)
        monkeypatch.setattr(postgresql_service, "create_slots", lambda _, action: self.done.append(action))
        monkeypatch.setattr(target, "attend", lambda _: self.done.append("attend"))
        monkeypatch.setattr(user_lists, "users_of", self._users_of)
        monkeypatch.setattr(user_lists, "store_users", self.done.append)

    def _own_database(self, _: ClusterFacts, *, writes: bool) -> None:
        if writes:
            self.done.append("creates the database")

    def _held(self, _: Here) -> Held | None:
        self.done.append("disk")
        return self.held

    def _users_of(self, _: Here, name: str) -> Users:
        self.done.append(f"users of {name}")
        return self.there

    def keep(self, facts: ClusterFacts = STREAMS) -> str:
        """Run one round, and return the line for `status`."""
        self.facts = facts
        self.done.clear()
        return self.chores.keep(facts)


@pytest.fixture(autouse=True)
def _users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    Users(5, {"app": "e"}, "m").save(paths.USERS)


@pytest.fixture
def pg1(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node("pg1", CLUSTER, monkeypatch)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node("pg1", NATIVE, monkeypatch)


# The nodes that write


def test_only_the_primary_creates_the_database_and_watches_its_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, writes in (("pg1", True), ("pg2", False)):
        node = Node(name, CLUSTER, monkeypatch)
        assert node.keep() == ""
        assert node.done == (["creates the database", "disk"] if writes else [])


def test_a_node_of_native_replication_writes_while_it_is_in_service(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = seen(primary("pg1", term=2), primary("pg2", term=2, led=1))
    assert housekeeping.writes(Node("pg1", NATIVE, monkeypatch).here, missed)
    assert not housekeeping.writes(Node("pg2", NATIVE, monkeypatch).here, missed)


def test_without_a_primary_no_node_of_streaming_replication_writes(pg1: Node) -> None:
    assert not housekeeping.writes(pg1.here, seen(away("pg1"), orphaned(standby("pg2", "pg1")), away("pg3")))


# The disk of the primary


def test_a_slot_that_fills_the_disk_is_reported_in_each_round_and_checked_once_a_minute(pg1: Node) -> None:
    pg1.held = FILLS
    line = pg1.keep()
    assert line.startswith("the disk of pg_wal is 85% full; slot pg3 retains 10.0 GB of WAL; hint: bring pg3 back")
    assert pg1.done == ["creates the database", "disk"]
    pg1.clock.now, pg1.held = 59.0, None
    assert (pg1.keep(), pg1.done) == (line, ["creates the database"])
    pg1.clock.now = 60.0
    assert (pg1.keep(), pg1.done) == ("", ["creates the database", "disk"])


def test_a_slot_is_given_up_before_the_disk_is_full(pg1: Node, capsys: pytest.CaptureFixture[str]) -> None:
    pg1.held = replace(FILLS, used=0.95)
    pg1.keep()
    assert CreateSlots("pg1", ("pg3",)) in pg1.done
    assert "dropping the slot" in capsys.readouterr().out
    pg1.held, pg1.clock.now = replace(FILLS, used=0.95, ours=False), 60.0
    pg1.keep()
    assert pg1.done == ["creates the database", "disk"], "another program's slot is left alone"


def test_a_former_primary_reports_its_disk_no_more(pg1: Node) -> None:
    pg1.held = FILLS
    assert pg1.keep()
    successor = seen(orphaned(standby("pg1", "pg2")), replace(primary("pg2", term=2), pgpool=pgpool()))
    assert pg1.keep(successor) == ""


# Users


@pytest.mark.parametrize(
    ("serials", "source"),
    [
        ({"pg1": 5, "pg2": 5, "pg3": 5}, ""),
        ({"pg1": 5, "pg2": 4, "pg3": 0}, ""),
        ({"pg1": 5, "pg2": 6, "pg3": 7}, "pg3"),
        ({"pg1": 9, "pg2": 6, "pg3": 7}, ""),  # its own facts are newer than this reading of its list
    ],
)
def test_a_node_fetches_the_users_from_the_node_with_the_latest_list(
    serials: dict[str, int], source: str, pg1: Node
) -> None:
    facts = ClusterFacts({name: replace(STREAMS.of(name), users=serial) for name, serial in serials.items()})
    pg1.keep(facts)
    fetched = [f"users of {source}", pg1.there] if source else []
    assert [one for one in pg1.done if one not in ("creates the database", "disk")] == fetched


def test_users_are_fetched_every_five_seconds_at_most(pg1: Node) -> None:
    """The list is long, and may be one that this node cannot store."""
    later = ClusterFacts({**STREAMS.nodes, "pg2": replace(STREAMS.of("pg2"), users=6)})
    fetched = []
    for pg1.clock.now in (0.0, 4.9, 5.0):
        pg1.keep(later)
        fetched.append("users of pg2" in pg1.done)
    assert fetched == [True, False, True]


# Native replication


def test_the_archive_is_pruned_up_to_the_file_that_a_recovery_needs(native: Node) -> None:
    native.here.cluster = replace(NATIVE, archive=Archive(keep_hours=48))
    with native.here.under_way.drain.copying("000000010000000000000003"):
        pass
    native.keep(ALL_IN)
    assert {"keep_hours": 48, "keep_from": "000000010000000000000003"} in native.done


def test_a_node_that_is_rebuilt_is_attended_to_in_each_round(native: Node) -> None:
    native.keep(ALL_IN)
    assert "vigil" in native.done
    assert "attend" not in native.done
    with native.here.under_way.rebuilding.stage(60):
        pass
    native.keep(ALL_IN)
    assert [one for one in native.done if one in ("attend", "vigil")] == ["attend", "vigil"]


def test_with_streaming_there_is_neither_archive_nor_vigil(pg1: Node) -> None:
    with pg1.here.under_way.promotion():
        pg1.keep()
    assert pg1.done == ["creates the database", "disk"]


# Failures


def test_an_error_of_postgresql_is_reported_in_one_line_and_logged_once(
    pg1: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tend(*_: object) -> None:
        raise psycopg2.OperationalError("the connection is closed\n")

    monkeypatch.setattr(Synchrony, "tend", tend)
    line = "cannot apply synchronous replication: PostgreSQL: the connection is closed"
    assert [pg1.keep(), pg1.keep()] == [line, line]
    assert capsys.readouterr().out.count(line) == 1


def test_a_chore_of_the_caller_is_done_and_its_failure_reported(pg1: Node) -> None:
    def fails(_: ClusterFacts) -> None:
        raise OperationError("no memory", hint="free some")

    pg1.chores.more = {"sweep": fails}
    assert pg1.keep() == "cannot sweep: no memory; hint: free some"


def test_sessions_with_a_node_are_ended_once_per_outage(pg1: Node) -> None:
    gone = seen(replace(primary("pg1"), pgpool=pgpool("pg3")), standby("pg2", "pg1"), away("pg3"))
    hung_up = []
    for facts in (gone, gone, STREAMS, gone):
        pg1.keep(facts)
        hung_up.append("hang up on pg3" in pg1.done)
    assert hung_up == [True, False, False, True]


def test_sessions_with_a_detached_node_that_answers_go_on(pg1: Node) -> None:
    pg1.keep(seen(replace(primary("pg1"), pgpool=pgpool("pg3")), standby("pg2", "pg1"), standby("pg3", "pg1")))
    assert "hang up on pg3" not in pg1.done
