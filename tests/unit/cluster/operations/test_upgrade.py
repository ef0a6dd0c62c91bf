"""pg_upgradecluster runs a hook before it copies a server of the cluster; the agent detects the result at its start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.errors import ClusterError, ServerError
from pgpool_cluster.machine import server, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import upgrade
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.postgresql.database import Database
from pgpool_cluster.transport.peers import Peers

NODES = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}\n"
PRIMARY = Record(system=7, term=3, led=3, standbys_came=True)
OLD, NEW = PostgresqlCluster(15, "main"), PostgresqlCluster(17, "main")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records requests to systemd and programs on pg1, whose 15/main serves and whose agent is stopped."""
    done: list[str] = []
    (tmp_path / "cluster.yml").write_text(NODES)
    (tmp_path / "postmaster.pid").touch()
    monkeypatch.setattr(paths, "CLUSTER_YML", tmp_path / "cluster.yml")
    monkeypatch.setattr(paths, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(server, "host_name", lambda: "pg1")
    monkeypatch.setattr(server, "instances", lambda _: [Instance(NEW, 5433, tmp_path), Instance(OLD, 5432, tmp_path)])
    monkeypatch.setattr(programs, "run", lambda words: done.append(Path(words[0]).name + " " + words[1]))
    monkeypatch.setattr(units, "state", lambda _: UnitState("inactive", "success", was_active=True))
    monkeypatch.setattr(units, "control", lambda verb: done.append(f"{verb} {Record.load(paths.RECORD).upgrading}"))
    monkeypatch.setattr(upgrade, "extension_of", lambda _: tmp_path / "cluster.yml")
    PRIMARY.save(paths.RECORD)
    return done


def test_both_servers_are_prepared(asked: list[str]) -> None:
    """The old server must not wait for standbys, since none receives; after that, the new server is configured."""
    upgrade.begin(OLD, NEW)
    assert asked == ["apply ", "pg_ctl reload", "apply 17/main"]
    assert Record.load(paths.RECORD) == PRIMARY.with_changes(standbys_came=False, upgrading="17/main")


def test_a_stopped_server_is_not_reloaded(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").unlink()
    upgrade.begin(OLD, NEW)
    assert asked == ["apply ", "apply 17/main"]


def with_record(**changes: object) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda _: PRIMARY.with_changes(**changes).save(paths.RECORD)


def with_a_named_server(_: pytest.MonkeyPatch) -> None:
    paths.CLUSTER_YML.write_text(f"postgresql: 15/main\n{NODES}")


def with_its_agent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(units, "state", lambda _: UnitState("active", "success", was_active=True))


def without_the_extension(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(upgrade, "extension_of", lambda _: Path("/no/such/file"))


@pytest.mark.parametrize(
    ("case", "said"),
    [(with_record(term=4), "pg1 is not the primary\nhint: upgrade the primary"),
     (with_record(copying="pg2"), "pg1 is not the primary"),
     (with_a_named_server, "cluster.yml names PostgreSQL 15/main\nhint: remove"),
     (with_its_agent, "fail over to another node meanwhile\nhint: on every node: systemctl stop pgpool2-cluster"),
     (without_the_extension, "no extension pgpool_recovery\nhint: apt install postgresql-17-pgpool2")],
)  # fmt: skip
def test_an_upgrade_that_would_break_the_cluster_is_refused_without_a_change(
    asked: list[str], case: Callable[[pytest.MonkeyPatch], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case(monkeypatch)
    before = paths.RECORD.read_bytes()
    with pytest.raises(ClusterError) as raised:
        upgrade.begin(OLD, NEW)
    assert said in str(raised.value)
    assert asked == []
    assert paths.RECORD.read_bytes() == before


@pytest.mark.parametrize("server_of_another", [NEW, PostgresqlCluster(15, "test")])
def test_other_servers_are_ignored(asked: list[str], server_of_another: PostgresqlCluster) -> None:
    upgrade.begin(server_of_another, PostgresqlCluster(18, "main"))
    assert asked == []


def agent_of(instance: PostgresqlCluster, upgrading: str = "17/main") -> Here:
    cluster = parse(NODES, "cluster.yml", "pg1")
    database = Database(Instance(instance, 5432, Path("/srv")))
    record = PRIMARY.with_changes(upgrading=upgrading, standbys_came=False)
    return Here(cluster, cluster.named("pg1"), database, Peers({}), record)


def test_the_cluster_uses_the_new_servers_data(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg, "control_data", lambda _: {"Database system identifier": "8"})
    upgrade.finish(here := agent_of(NEW))
    assert here.record == PRIMARY.with_changes(system=8, standbys_came=False)
    assert asked == ["apply "]


def test_a_failed_upgrade_is_forgotten(asked: list[str]) -> None:
    upgrade.finish(here := agent_of(OLD))
    assert here.record == PRIMARY.with_changes(standbys_came=False)
    assert asked == ["apply "]


def test_without_an_upgrade_nothing_is_done(asked: list[str]) -> None:
    upgrade.finish(here := agent_of(OLD, upgrading=""))
    assert here.record == PRIMARY.with_changes(standbys_came=False)
    assert asked == []


def test_unreadable_new_data_is_not_used(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg, "control_data", lambda _: {})
    here = agent_of(NEW)
    with pytest.raises(ServerError, match="cannot be read after the upgrade"):
        upgrade.finish(here)
    assert here.record.upgrading == "17/main"
    assert asked == []
