"""The cluster's roles log in to their own database once every server has it, and until then to `postgres`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.nodes import CLUSTER, healthy, seen
from tests.unit.cluster.rendered import SERVER, VERSIONS, files, pgpool_conf, text_of
from tests.unit.cluster.threads import AT_ONCE

from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.key import DATABASE
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.connection import Unanswered
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server_facts import PgpoolVersion
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import applying
from pgpool_cluster.operations.accounts import own_database
from pgpool_cluster.operations.accounts.own_database import OwnDatabase
from pgpool_cluster.postgresql import local_server
from pgpool_cluster.transport.peers import Peers


class Agent:
    """The agent of pg1, the primary; `made` and `applied` count its actions."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.applied, self.fails = 0, 0, ""
        self.here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=7))
        self.chore = OwnDatabase(self.here)
        monkeypatch.setattr(paths, "RECORD", folder / "record.json")
        monkeypatch.setattr(paths, "DATABASE", folder / "database")
        monkeypatch.setattr(units, "control", self._apply)
        monkeypatch.setattr(own_database, "make", self._make)
        for module in (own_database, applying):
            monkeypatch.setattr(module, "threading", AT_ONCE)
        monkeypatch.setattr(applying, "_GATHER_SECONDS", 0)

    def _make(self, _: Here) -> None:
        self.made += 1
        if self.fails:
            raise OperationError(self.fails, hint="more")

    def _apply(self, verb: str) -> None:
        assert verb == "apply"
        self.applied += 1
        paths.DATABASE.write_text(f"{DATABASE}\n" if self.here.record.own_database else "postgres\n")

    def round(self, *having: str) -> None:
        self.chore.tend(having_it(*having), writes=True)


def having_it(*names: str) -> ClusterFacts:
    return seen(*(replace(one, own_database=one.node in names) for one in healthy()))


@pytest.fixture
def pg1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(tmp_path, monkeypatch)


def test_the_primary_creates_it_and_switches_once_every_server_has_it(pg1: Agent) -> None:
    """A REVOKE CONNECT on `postgres` used to take every node out of service within seconds."""
    pg1.round()
    assert (pg1.made, pg1.applied, paths.database()) == (1, 0, "postgres")
    pg1.round("pg1", "pg2")  # pg3 has an older package, or has not replayed it yet
    assert (pg1.made, pg1.applied, pg1.here.record.own_database) == (1, 0, False)
    pg1.round("pg1", "pg2", "pg3")
    assert (pg1.made, pg1.applied, paths.database()) == (1, 1, DATABASE)
    pg1.round("pg1", "pg2", "pg3")
    assert pg1.applied == 1
    assert Record.load(paths.RECORD).own_database


def test_a_standby_that_is_away_is_not_waited_for(pg1: Agent) -> None:
    """Health checks used to stay on a database with a connection limit for as long as a server was missing."""
    away = seen(*(replace(one, own_database=True) for one in healthy() if one.node != "pg3"))
    pg1.chore.tend(away, writes=True)
    assert (pg1.applied, paths.database()) == (1, DATABASE)


def test_a_dropped_database_is_created_again_and_nothing_is_reverted(pg1: Agent) -> None:
    pg1.round("pg1", "pg2", "pg3")
    pg1.round()
    assert (pg1.made, paths.database()) == (1, DATABASE)


def test_a_read_only_node_does_not_create_it(pg1: Agent) -> None:
    pg1.chore.tend(having_it(), writes=False)
    assert pg1.made == 0


def test_a_failure_to_create_it_is_reported_and_retried(pg1: Agent) -> None:
    pg1.fails = "PostgreSQL: no space left"
    pg1.round()
    with pytest.raises(OperationError, match="no space left"):
        pg1.round()
    assert pg1.made == 2


class _Server:
    """A stand-in for `Database` that records statements."""

    def __init__(self, *databases: str) -> None:
        self.databases, self.sent = list(databases), list[str]()
        self.instance = SimpleNamespace(name=SimpleNamespace(major=17))

    @contextmanager
    def session(self, name: str, **_: object) -> Iterator[Any]:
        def execute(sql: str, values: tuple[str, ...] = ()) -> None:
            self.sent.append(f"{name}: {sql}")
            self.known = not values or values[0] in self.databases or values[0].startswith("pgpool_rec")

        def found() -> list[tuple[int]]:
            return [(1,)] if self.known else []

        yield SimpleNamespace(execute=execute, fetchall=found, fetchone=lambda: next(iter(found()), None))


def test_a_half_dropped_database_is_dropped_and_created_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupted DROP DATABASE, PostgreSQL rejects every login to it, whatever is granted."""
    monkeypatch.setattr(own_database, "_HALF_DROPPED", (1,))
    server: Any = _Server("postgres", DATABASE)
    own_database.make(SimpleNamespace(server=server))  # type: ignore[arg-type]
    dropped = server.sent.index(f"postgres: DROP DATABASE {DATABASE}")
    assert server.sent[dropped + 1].endswith("TEMPLATE template0")


def test_its_rights_are_set_last_and_only_for_the_roles() -> None:
    server: Any = _Server("postgres")
    own_database.make(SimpleNamespace(server=server))  # type: ignore[arg-type]
    assert f"postgres: CREATE DATABASE {DATABASE} OWNER postgres TEMPLATE template0" in server.sent
    assert f"{DATABASE}: CREATE EXTENSION IF NOT EXISTS pgpool_recovery" in server.sent
    assert server.sent[-2:] == [
        f"{DATABASE}: REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC",
        f"{DATABASE}: GRANT CONNECT ON DATABASE {DATABASE} TO pgpool_recovery, pgpool_replication, pgpool_check",
    ]
    again: Any = _Server("postgres", DATABASE)
    own_database.make(SimpleNamespace(server=again))  # type: ignore[arg-type]
    assert not [sql for sql in again.sent if "CREATE DATABASE" in sql]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"4.{version.minor}")
@pytest.mark.parametrize(("own", "name"), [(False, "postgres"), (True, DATABASE)])
def test_health_checks_use_the_database_that_every_server_has(version: PgpoolVersion, own: bool, name: str) -> None:
    server = replace(SERVER, pgpool=version, own_database=own)
    found = pgpool_conf(server=server)
    wanted = {"health_check_database", "sr_check_database", *(["recovery_database"] if version.minor > 6 else [])}
    assert {key: found[key] for key in found if key.endswith("_database")} == dict.fromkeys(wanted, name)
    assert text_of(str(paths.DATABASE), files(server=server)) == f"{name}\n"


@pytest.mark.parametrize(("laid", "used"), [("", ["postgres"]), (DATABASE, ["postgres", DATABASE])])
def test_the_agent_uses_it_if_postgres_has_been_renamed(
    laid: str, used: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def connect(*, dbname: str, **_: object) -> str:
        asked.append(dbname)
        if dbname == "postgres":
            raise psycopg2.OperationalError('FATAL:  database "postgres" does not exist')
        return f"to {dbname}"

    monkeypatch.setattr(paths, "DATABASE", tmp_path / "database")
    paths.DATABASE.write_text(laid)
    monkeypatch.setattr(local_server, "connect", connect)
    if laid:
        found: object = local_server.connect_home(5432, seconds=1)
        assert found == f"to {DATABASE}"
    else:
        with pytest.raises(psycopg2.OperationalError):
            local_server.connect_home(5432, seconds=1)
    assert asked == used


def test_a_hanging_server_is_not_queried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(**words: object) -> None:
        asked.append(words)
        raise Unanswered("it hangs")

    monkeypatch.setattr(paths, "DATABASE", tmp_path / "database")
    paths.DATABASE.write_text(DATABASE)
    monkeypatch.setattr(local_server, "connect", connect)
    with pytest.raises(Unanswered):
        local_server.connect_home(5432, seconds=1)
    assert len(asked) == 1
