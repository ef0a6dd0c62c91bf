"""The facts about a node's PostgreSQL: from its answers, or from its files while it is down or hangs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.nodes import CLUSTER

from pgpool_cluster.decision.facts import matching, replay
from pgpool_cluster.decision.facts.facts import Lsn, NodeFacts, Postgresql, Switch
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.connection import Unanswered
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.ground.programs import ProgramError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.postgresql import database as database_module
from pgpool_cluster.postgresql.database import Database

PG1 = NodeFacts("pg1")
SETTINGS = {**dict.fromkeys(matching.CONTROL, 100), "wal_receiver_timeout": 60000}
CONTROL = """\
Database system identifier:           7000
Database cluster state:               {state}
Latest checkpoint location:           0/3000060
Latest checkpoint's TimeLineID:       2
max_connections setting:              200
"""


class Server:
    """PostgreSQL and its programs. `errors`: a query raises the first one, which stays unless it is `Recovered`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.errors: list[Exception] = []
        self.primary = False
        self.conninfo = "host=10.0.0.2 application_name=pg1"
        self.paused = False
        self.names = "ANY 1 (pg2)"
        self.tables = 0
        self.control = CONTROL.format(state="shut down")
        self.closed = 0
        self.unit: UnitState | Exception = UnitState("active", "success", was_active=True)

    def query(self, sql: str, _: Sequence[object], seconds: float) -> list[tuple[Any, ...]]:
        assert seconds <= 1.5
        if self.errors:
            raise self.errors.pop(0) if isinstance(self.errors[0], Recovered) else self.errors[0]
        if "pg_walfile_name" in sql:
            return [("0000000A",)]
        end = (None if self.primary else "0/4000000", "" if self.primary else self.conninfo)
        return [(
            not self.primary, 7000, 2, "0/4000100", *end, not self.primary, ["pg3"], ["app"], self.tables,
            self.names, True, self.paused, "0/4000100", "12:00", False, SETTINGS,
        )]  # fmt: skip

    def close(self) -> None:
        self.closed += 1

    def attempt(self, words: Sequence[str], **_: object) -> programs.Ended:
        if words[0].endswith("pg_waldump"):
            return subprocess.CompletedProcess(words, 0, "rmgr: XLOG len (rec/tot): 114/   114, tx: 0\n", "")
        if not self.control:
            raise ProgramError(words[0], "this program is not installed")
        return subprocess.CompletedProcess(words, 0, self.control, "")

    def state(self, _: str) -> UnitState:
        if isinstance(self.unit, Exception):
            raise self.unit
        return self.unit


class Recovered(psycopg2.errors.ObjectNotInPrerequisiteState):  # type: ignore[misc,unused-ignore]
    """A server whose recovery ended between two functions of one query."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    found = Server()
    monkeypatch.setattr(database_module, "time", found.clock)
    monkeypatch.setattr(programs, "attempt", found.attempt)
    monkeypatch.setattr(units, "state", found.state)
    monkeypatch.setattr(units, "being_upgraded", lambda _: False)
    monkeypatch.setattr(paths, "STOPPED", tmp_path / "stopped")
    return found


@pytest.fixture
def database(server: Any, tmp_path: Path) -> Database:
    data = tmp_path / "data"
    (data / "pg_wal").mkdir(parents=True)
    (data / "PG_VERSION").write_text("17\n")
    (data / "standby.signal").touch()
    (data / "pg_wal" / "00000002.history").write_text("1\t0/3000000\tno recovery target specified\n")
    found = Database(Instance(PostgresqlCluster(17, "main"), 5432, data))
    found._looks = server
    return found


def down(text: str) -> psycopg2.OperationalError:
    return psycopg2.OperationalError(text)


def test_a_standby_reports_what_it_follows_and_what_it_has(server: Server, database: Database) -> None:
    found = database.look(PG1, CLUSTER)
    assert (found.postgresql, found.system, found.in_recovery, found.follows) == (Postgresql.UP, 7000, True, "pg2")
    assert (found.position, found.replayed) == (Lsn.parse("0/4000100"), Lsn.parse("0/4000000"))
    assert (found.timeline, found.history) == (2, (Switch(1, Lsn.parse("0/3000000")),))
    assert (found.slots, found.databases, found.streaming) == (frozenset({"pg3"}), ("app",), True)


def test_a_standby_has_the_timeline_of_the_wal_that_it_has_received(database: Database) -> None:
    """Its control file shows that timeline only minutes later."""
    (database.instance.data / "pg_wal" / "000000030000000000000004").touch()
    assert database.look(PG1, CLUSTER).timeline == 3


def test_a_primary_has_the_timeline_that_it_writes(server: Server, database: Database) -> None:
    """Its last checkpoint may be older than its promotion."""
    server.primary = True
    found = database.look(PG1, CLUSTER)
    assert (found.timeline, found.in_recovery, found.follows) == (10, False, None)


@pytest.mark.parametrize("conninfo", ["", "host=10.0.0.99", "not a connection string"])
def test_a_standby_of_another_server_follows_no_node(server: Server, database: Database, conninfo: str) -> None:
    server.conninfo = conninfo
    assert database.look(PG1, CLUSTER).follows is None


@pytest.mark.parametrize(("tables", "found"), [(0, ("app",)), (3, ("app", "postgres"))])
def test_tables_in_the_database_postgres_are_data(
    server: Server, database: Database, tables: int, found: tuple[str, ...]
) -> None:
    """A clone must not replace them without a question."""
    server.tables = tables
    assert database.look(PG1, CLUSTER).databases == found


@pytest.mark.parametrize(("intended", "laid"), [(None, True), ("ANY 1 (pg2)", True), ("", False)])
def test_synchronous_standby_names_are_compared_with_the_intended_ones(
    database: Database, intended: str | None, laid: bool
) -> None:
    assert database.look(PG1, CLUSTER, intended).laid is laid


def test_a_recovery_that_ends_during_the_query_is_no_outage(server: Server, database: Database) -> None:
    server.errors = [Recovered("recovery is not in progress")]
    server.primary = True
    assert database.look(PG1, CLUSTER).up


def test_a_standby_that_paused_for_a_low_parameter_names_it(server: Server, database: Database) -> None:
    """PostgreSQL pauses its replay without a word to its clients."""
    server.paused = True
    found = database.look(PG1, CLUSTER)
    assert found.stalled == "max_connections is 100 on pg1, and 200 is needed"
    assert found.needs == {"max_connections": 200}
    server.control = CONTROL.replace("200", "100")
    assert database.look(PG1, CLUSTER).stalled == replay.PAUSED


def test_a_missing_data_directory_is_absent_and_leaves_no_old_facts(server: Server, database: Database) -> None:
    server.errors = [down("the database system is starting up")]
    database.look(PG1, CLUSTER)
    (database.instance.data / "PG_VERSION").unlink()
    assert database.look(PG1, CLUSTER) == NodeFacts("pg1", postgresql=Postgresql.ABSENT)
    assert database.refused == ""
    assert server.closed == 2


@pytest.mark.parametrize(
    ("state", "position"), [("shut down", "0/30000D8"), ("shut down in recovery", "0/30000D8"), ("in production", None)]
)
def test_the_position_of_a_stopped_server_is_known_unless_it_crashed(
    server: Server, database: Database, state: str, position: str | None
) -> None:
    """After a crash, only a replay finds the end. Otherwise the shutdown checkpoint is its last record."""
    server.errors = [down("connection refused")]
    server.unit = UnitState("failed", "exit-code", was_active=True, seconds=1000)
    server.control = CONTROL.format(state=state)
    found = database.look(PG1, CLUSTER)
    assert found.postgresql is Postgresql.DOWN
    assert found.position == (position and Lsn.parse(position))
    assert (found.system, found.timeline, found.standby_signal) == (7000, 2, True)
    assert found.history == (Switch(1, Lsn.parse("0/3000000")),)


def test_a_server_whose_control_file_is_unreadable_has_no_system(server: Server, database: Database) -> None:
    server.errors, server.control = [down("connection refused")], ""
    server.unit = UnitState("failed", "exit-code", was_active=True, seconds=1000)
    assert database.look(PG1, CLUSTER) == NodeFacts("pg1", postgresql=Postgresql.DOWN)


@pytest.mark.parametrize(
    ("text", "active", "found"),
    [("the database system is starting up", "inactive", Postgresql.STARTING),
     ("the database system is not yet accepting connections", "failed", Postgresql.STARTING),
     ("sorry, too many clients already", "failed", Postgresql.STARTING),
     ("connection refused", "active", Postgresql.STARTING), ("connection refused", "deactivating", Postgresql.STARTING),
     ("timeout expired", "active", Postgresql.DOWN), ("connection refused", "inactive", Postgresql.STOPPED)],
)  # fmt: skip
def test_a_refusal_alone_does_not_make_a_server_dead(
    server: Server, database: Database, text: str, active: str, found: Postgresql
) -> None:
    server.errors, server.unit = [down(text)], UnitState(active, "success", was_active=True)
    assert database.look(PG1, CLUSTER).postgresql is found


def test_a_server_that_the_cluster_has_stopped_is_down_rather_than_stopped_by_hand(
    server: Server, database: Database
) -> None:
    """The agent starts it again."""
    server.errors, server.unit = [down("connection refused")], UnitState("inactive", "success", was_active=True)
    paths.STOPPED.touch()
    assert database.look(PG1, CLUSTER).postgresql is Postgresql.DOWN


def test_a_server_that_rejects_every_login_is_shut_after_a_while(server: Server, database: Database) -> None:
    server.errors = [down('FATAL:  database locale is incompatible\n\nDETAIL:  no "de_DE"\nHINT:  recreate it\n')]
    database.look(PG1, CLUSTER)
    assert database.shut == "", "it may only be starting"
    server.clock.now += 14
    database.look(PG1, CLUSTER)
    assert database.shut == ""
    server.clock.now += 2
    database.look(PG1, CLUSTER)
    assert database.shut == 'FATAL:  database locale is incompatible; DETAIL:  no "de_DE"'
    server.errors = []
    database.look(PG1, CLUSTER)
    assert (database.refused, database.shut) == ("", "")


def test_a_server_that_stops_answering_hangs_after_a_while_with_its_last_timeline(
    server: Server, database: Database
) -> None:
    """Its disk may be the cause, so nothing is read from it."""
    before = database.look(PG1, CLUSTER)
    server.errors, server.control = [Unanswered("the server did not answer within 1.5 s")], ""
    assert database.look(PG1, CLUSTER).postgresql is Postgresql.STARTING
    server.clock.now += 21
    found = database.look(PG1, CLUSTER)
    assert found.postgresql is Postgresql.HANGING
    assert (found.system, found.timeline, found.history) == (7000, 2, before.history)
    assert found.position is None
    server.errors = []
    assert database.look(PG1, CLUSTER).up


def test_a_server_that_never_answered_has_the_timeline_of_its_files(server: Server, database: Database) -> None:
    server.errors = [Unanswered("the server did not answer within 1.5 s")]
    found = database.look(PG1, CLUSTER)
    assert (found.system, found.timeline) == (7000, 2)


@pytest.mark.parametrize(
    ("unit", "found"),
    [(UnitState("deactivating", "success", was_active=True), Postgresql.STARTING),
     (ServerError("systemd does not answer", hint="wait"), Postgresql.HANGING)],
)  # fmt: skip
def test_a_server_that_systemd_stops_does_not_hang(
    server: Server, database: Database, unit: UnitState | Exception, found: Postgresql
) -> None:
    """Its shutdown checkpoint may take minutes."""
    server.errors, server.unit = [Unanswered("the server did not answer within 1.5 s")], unit
    database.look(PG1, CLUSTER)
    server.clock.now += 21
    assert database.look(PG1, CLUSTER).postgresql is found
