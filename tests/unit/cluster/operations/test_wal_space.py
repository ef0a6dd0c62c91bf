"""WAL that the primary keeps for an absent node, and the free space on its disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import wal_space
from pgpool_cluster.postgresql.database import Database
from pgpool_cluster.transport.peers import Peers

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg-2: 10.0.0.2}", "cluster.yml", "pg1")
GB = 2**30


def looked(monkeypatch: pytest.MonkeyPatch, used: int, rows: list[tuple[str, int]]) -> wal_space.Held | None:
    """Check a disk of 100 GB."""
    disk = SimpleNamespace(total=100 * GB, used=used * GB, free=(100 - used) * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    monkeypatch.setattr(Database, "query", lambda *_: rows)
    database = Database(Instance(PostgresqlCluster(17, "main"), 5432, Path("/srv")))
    return wal_space.held(Here(CLUSTER, CLUSTER.named("pg1"), database, Peers({}), Record(system=1)))


@pytest.mark.parametrize(
    ("used", "rows"),
    [(79, [("pg_2", 10 * GB)]), (90, []), (99, [("pg_2", 1000)])],
    ids=["there is room", "no node is away", "other files use the space"],
)
def test_nothing_is_reported(used: int, rows: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(monkeypatch, used, rows) is None


@pytest.mark.parametrize(("used", "given_up"), [(80, False), (94, False), (95, True)])
def test_a_node_that_fills_the_disk_is_named_and_given_up_before_it_is_full(
    used: int, given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = looked(monkeypatch, used, [("pg_2", 10 * GB)])
    assert found is not None
    assert str(found) == f"the disk of pg_wal is {used}% full; slot pg_2 retains 10.0 GB of WAL"
    assert found.given_up is given_up


def test_a_slot_that_is_not_the_clusters_is_named_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(monkeypatch, 99, [("debezium", 10 * GB)])
    assert found is not None
    assert not found.given_up
    assert "pg_drop_replication_slot('debezium')" in found.hint
