"""A server that dpkg has stopped for an upgrade counts as starting; one that an administrator stopped does not."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest

from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import paths
from pgpool_cluster.machine import units
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.postgresql.database import Database

REFUSED = psycopg2.OperationalError("connection to server on socket failed: No such file or directory")
STOPPED = UnitState("inactive", "success", was_active=True, seconds=20)


def programs(monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str]) -> list[list[str]]:
    """Make programs return these statuses and outputs in turn; return the commands that were run."""
    ran: list[list[str]] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(words)
        status, output = answers[min(len(ran), len(answers)) - 1]
        return subprocess.CompletedProcess(words, status, output, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return ran


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A server that is down."""
    monkeypatch.setattr(paths, "STOPPED", tmp_path / "stopped")
    return Database(Instance(PostgresqlCluster(17, "main"), 5432, tmp_path))


@pytest.mark.parametrize(
    ("state", "dpkg", "found"),
    [(STOPPED, "install half-configured", Postgresql.STARTING),
     (STOPPED, "install half-installed", Postgresql.STARTING),
     (STOPPED, "install unpacked", Postgresql.STARTING),
     (STOPPED, "hold unpacked", Postgresql.STARTING),
     (UnitState("failed", "timeout", was_active=True, seconds=20), "install unpacked", Postgresql.STARTING),
     (STOPPED, "install installed", Postgresql.STOPPED),
     (STOPPED, "deinstall half-configured", Postgresql.STOPPED),
     (UnitState("inactive", "success", was_active=True, seconds=301), "install unpacked", Postgresql.STOPPED),
     (UnitState("inactive", "success", was_active=False, seconds=20), "install unpacked", Postgresql.DOWN),
     (UnitState("inactive", "success", was_active=True, queued=True), "install installed", Postgresql.STARTING)],
    ids=["prerm", "unpacking", "unpacked", "held", "stopped by force", "by hand", "removed", "broken off", "booted",
         "restart"],
)  # fmt: skip
def test_the_state_of_a_server_that_is_not_running(
    database: Database, state: UnitState, dpkg: str, found: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "state", lambda _: state)
    ran = programs(monkeypatch, (0, f"{dpkg}\n"))
    assert database._why_down(REFUSED) is found
    assert all(words[-1] == "postgresql-17" for words in ran)


def test_a_server_that_dpkg_does_not_restart_counts_as_stopped(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """postinst starts only servers with automatic start (start.conf)."""
    monkeypatch.setattr(units, "state", lambda _: STOPPED)
    monkeypatch.setattr("pgpool_cluster.postgresql.data_directory.starts_by_itself", lambda _: False)
    programs(monkeypatch, (0, "install unpacked\n"))
    assert database._why_down(REFUSED) is Postgresql.STOPPED


@pytest.mark.parametrize(
    ("answers", "found"),
    [([(2, ""), (0, "install unpacked\n")], True),  # read while dpkg merged its journal
     ([(2, "")], False),
     ([(1, "")], False)],  # no such package: PostgreSQL was built by hand
)  # fmt: skip
def test_dpkg_is_queried_again_after_a_failed_read(
    answers: list[tuple[int, str]], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, *answers)
    assert units.being_upgraded("postgresql-17") is found


@pytest.mark.parametrize(("job", "moving"), [("", False), ("Job=4711\n", True)])
def test_a_unit_between_stop_and_start_of_a_restart_counts_as_moving(
    job: str, moving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "ActiveState=inactive\nResult=success\nActiveEnterTimestampMonotonic=7\nStateChangeTimestampMonotonic=9\n"
    ran = programs(monkeypatch, (0, shown + job))
    assert units.state("postgresql@17-main.service").moving is moving
    assert "Job" in ran[0][3].split(",")
