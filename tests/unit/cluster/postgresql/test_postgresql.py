"""The start and stop of a node's PostgreSQL, and what its own programs print about its configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.nodes import CLUSTER

from pgpool_cluster.decision.facts import matching
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.ground.programs import ProgramError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.postgresql import server_log

PROGRAMS = "/usr/lib/postgresql/17/bin"
CONF = "/etc/postgresql/17/main"
UNIT = "postgresql@17-main.service"
CONTROL = """\
pg_control version number:            1300
Latest checkpoint location:           0/3000060
max_connections setting:              200
max_worker_processes setting:         8
"""
WRONG = f'LOG:  invalid value for parameter "work_mem": "much" in {CONF}/postgresql.conf'
"""PostgreSQL prints each error as LOG, and a FATAL at the end."""


class Postgresql:
    """A server whose start takes `seconds`, with programs that print `printed`, and refuse with `wrong`."""

    def __init__(self, data: Path) -> None:
        self.instance = Instance(PostgresqlCluster(17, "main"), 5432, data)
        self.clock = Clock()
        self.seconds = 0.0
        self.unit = "activating"
        self.wrong = ""
        self.values = dict.fromkeys(matching.CONTROL, "100")
        self.control = CONTROL
        self.log_line = ""
        self.absent = False
        self.ran: list[list[str]] = []
        self.done: list[str] = []

    def query(self, _: str) -> list[tuple[int]]:
        if self.clock.now < 1000 + self.seconds:
            raise psycopg2.OperationalError("connection refused")
        return [(1,)]

    def close(self) -> None:
        self.done.append("close")

    def attempt(self, words: Sequence[str], **_: object) -> programs.Ended:
        self.ran.append(list(words))
        if self.absent:
            raise ProgramError(words[0], "this program is not installed")
        if words[0] == "pg_ctlcluster":
            self.done.append(" ".join(words))
            return subprocess.CompletedProcess(words, 2, "", "Error: pid file is invalid, please manually kill it")
        if words[0].endswith("pg_controldata"):
            return subprocess.CompletedProcess(words, 0, self.control, "")
        if self.wrong:
            return subprocess.CompletedProcess(words, 1, "", self.wrong)
        return subprocess.CompletedProcess(words, 0, self.values.get(words[-1], "") + "\n", "")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Postgresql(tmp_path)
    monkeypatch.setattr(programs, "attempt", found.attempt)
    monkeypatch.setattr(pg, "time", found.clock)
    monkeypatch.setattr(paths, "STOPPED", tmp_path / "stopped")
    monkeypatch.setattr(units, "control", lambda verb, unit: found.done.append(f"{verb} {unit}"))
    monkeypatch.setattr(units, "state", lambda _: UnitState(found.unit, "success", was_active=True))
    monkeypatch.setattr(server_log, "last_words", lambda _: found.log_line)
    return found


def test_a_start_waits_until_the_server_answers(server: Any) -> None:
    server.seconds = 5
    paths.STOPPED.touch()
    pg.start(server)
    assert server.clock.now >= 1005
    assert server.done == [f"start {UNIT}"]
    assert not paths.STOPPED.exists(), "the agent would treat a later stop by an administrator as its own"


@pytest.mark.parametrize(("unit", "waited"), [("failed", 2), ("inactive", 2), ("activating", 60), ("active", 60)])
def test_a_start_is_given_up_early_only_if_systemd_has_given_up(server: Any, unit: str, waited: float) -> None:
    """In the first seconds, the unit may still have its state from before the start."""
    server.seconds, server.unit, server.log_line = 1000, unit, "FATAL:  could not map anonymous shared memory"
    with pytest.raises(OperationError) as caught:
        pg.start(server)
    assert waited < server.clock.now - 1000 < waited + 0.3
    assert caught.value.message == f"PostgreSQL 17/main does not start: {server.log_line}"
    assert caught.value.hint == f"journalctl -u {UNIT} and its log (pg_lsclusters shows the path) show more"


def test_a_server_that_logs_no_reason_is_reported_with_the_error_of_its_socket(server: Any) -> None:
    server.seconds, server.unit = 1000, "failed"
    with pytest.raises(OperationError, match="PostgreSQL 17/main does not start: connection refused"):
        pg.start(server)


def test_a_line_that_prevents_the_start_is_named_with_a_hint(server: Any) -> None:
    server.seconds, server.unit, server.log_line = 1000, "failed", "an older line"
    server.wrong = f"{WRONG}\nFATAL:  configuration file contains errors"
    with pytest.raises(OperationError, match='does not start: invalid value for parameter "work_mem"') as caught:
        pg.start(server)
    assert caught.value.hint == "correct that line; the agent then starts it again"


@pytest.mark.parametrize("standby", [True, False])
def test_a_standby_with_a_lower_parameter_than_its_primary_gets_the_values_to_set(server: Any, standby: bool) -> None:
    """A primary starts with any value."""
    server.seconds, server.unit = 1000, "failed"
    if standby:
        (server.instance.data / "standby.signal").touch()
    with pytest.raises(OperationError) as caught:
        pg.start(server)
    assert ("postgresql_conf: {max_connections: 200} or more" in caught.value.hint) is standby


def test_a_stop_closes_the_connections_first_and_is_recorded_as_the_clusters(server: Any) -> None:
    """The next query then opens a new connection instead of failing on a broken one."""
    pg.stop(server)
    assert server.done == ["close", f"stop {UNIT}"]
    assert paths.STOPPED.exists()


@pytest.mark.parametrize(("unit", "stopped"), [("inactive", True), ("deactivating", False)])
def test_a_server_that_systemd_does_not_know_is_stopped_by_its_own_program(
    server: Any, unit: str, stopped: bool
) -> None:
    """Its pid file may be a leftover of a crash, for which that program fails."""
    server.unit = unit
    (server.instance.data / "postmaster.pid").touch()
    pg.stop(server)
    command = "pg_ctlcluster --skip-systemctl-redirect --mode fast 17 main stop"
    assert server.done == ["close", f"stop {UNIT}", *([command] if stopped else [])]


def test_the_control_file_is_read_by_label(server: Any) -> None:
    assert pg.control_data(server.instance)["Latest checkpoint location"] == "0/3000060"
    assert matching.needed(pg.control_data(server.instance)) == {"max_connections": 200, "max_worker_processes": 8}
    assert server.ran[0] == [f"{PROGRAMS}/pg_controldata", "-D", str(server.instance.data)]


def test_an_unreadable_control_file_has_no_labels(server: Any) -> None:
    server.absent = True
    assert pg.control_data(server.instance) == {}


def test_the_values_for_the_next_start_come_from_the_servers_files(server: Any) -> None:
    server.values["max_connections"] = "300"
    assert pg.configured(server.instance) == {**dict.fromkeys(matching.CONTROL, 100), "max_connections": 300}
    assert server.ran[0] == [f"{PROGRAMS}/postgres", "-D", CONF, "-C", "max_connections"]
    pg.configured(server.instance, without_alter_system=True)
    assert server.ran[-1][3:5] == ["-c", "data_directory=/nonexistent"], "postgresql.auto.conf would be read"


def test_files_with_errors_yield_no_values_rather_than_some(server: Any) -> None:
    server.wrong = WRONG
    assert pg.configured(server.instance) == {}
    assert pg.setting(server.instance, "wal_level") == ""
    server.wrong = ""
    server.values["max_worker_processes"] = "?"
    assert pg.configured(server.instance) == {}


@pytest.mark.parametrize(
    ("wrong", "found"),
    [(WRONG, WRONG.removeprefix("LOG:  ")), ("", ""), ("WARNING:  nothing serious", "")],
)
def test_the_first_error_in_the_files_is_found(
    server: Any, wrong: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    server.wrong = wrong
    assert pg.fault(server.instance) == found
    assert server.ran[0][0] == "setpriv", "postgres refuses to run as root"


def test_a_server_without_programs_has_no_known_fault(server: Any) -> None:
    server.absent = True
    assert pg.fault(server.instance) == ""


def test_the_connection_to_the_primary_names_the_node_but_no_password() -> None:
    text = pg.conninfo(CLUSTER, "pg2", "pg1")
    assert "host=10.0.0.1 " in text.replace("'", "")
    assert "application_name=pg2" in text.replace("'", "")
    assert "password" not in text
