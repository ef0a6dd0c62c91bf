"""A standby adopts the settings that it needs from a tuned primary before it is copied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.rendered import SERVER, files, settings_of, text_of

from pgpool_cluster.copying import adopting
from pgpool_cluster.decision.facts import matching
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.postgresql import postgresql as pg

DEBIANS = {"max_connections": 404, "max_worker_processes": 8, "max_locks_per_transaction": 64}
TUNED = [("max_worker_processes", "32", "/etc/postgresql/17/main/conf.d/00.conf"), ("max_connections", "404", "")]


class Standby:
    """A node with Debian's values that is about to be copied."""

    def __init__(self, folder: Path) -> None:
        (folder / "lib").mkdir()
        (folder / "lib" / "pg_stat_statements.so").touch()
        self.record = Record()
        self.server = SimpleNamespace(instance=SimpleNamespace(program=lambda name: str(folder / "bin" / name)))
        self.asked: list[str] = []

    def remember(self, **changes: object) -> None:
        self.record = self.record.with_changes(**changes)


@pytest.fixture
def standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Standby(tmp_path)
    monkeypatch.setattr(pg, "configured", lambda *_, **__: DEBIANS | dict(found.record.needs))

    def setting(_: object, name: str, **__: object) -> str:
        return "16" if name == "max_replication_slots" else ", ".join(["auto_explain", *found.record.libraries])

    monkeypatch.setattr(pg, "setting", setting)
    monkeypatch.setattr(units, "control", found.asked.append)
    return found


def test_higher_values_of_the_primary_are_applied_once(standby: Any) -> None:
    """Standbys with Debian's values used to wait for an administrator, because a copy would not have started."""
    for _ in range(2):
        adopting.adopt(standby, adopting.Source.of(TUNED))
        assert standby.record.needs == (("max_worker_processes", 32),)
        assert standby.asked == ["apply"]
    higher = ("max_worker_processes", "64", "")
    adopting.adopt(standby, adopting.Source.of([higher]))
    assert standby.record.needs == (("max_worker_processes", 64),)


def test_subscribers_continue_after_a_failover(standby: Any) -> None:
    rows = [("wal_level", "logical", ""), ("max_replication_slots", "50", "")]
    adopting.adopt(standby, adopting.Source.of(rows))
    assert (standby.record.logical, standby.record.needs) == (True, (("max_replication_slots", 50),))
    server = replace(SERVER, needs=matching.plain(standby.record.needs), logical=True)
    found = settings_of(text_of("/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf", files(server=server)))
    assert (found["wal_level"], found["max_replication_slots"]) == ("logical", "50")


def test_nothing_is_adopted_from_a_primary_with_the_same_values(standby: Any) -> None:
    along = ("max_worker_processes", "32", "/var/lib/postgresql/17/main/postgresql.auto.conf")
    adopting.adopt(standby, adopting.Source.of([along, ("shared_preload_libraries", "auto_explain", "")]))
    assert standby.record == Record()
    assert standby.asked == []


def test_libraries_that_are_installed_here_are_adopted(standby: Any) -> None:
    """pg_stat_statements used to be lost after a failover."""
    adopting.adopt(standby, adopting.Source.of([("shared_preload_libraries", "pg_stat_statements,timescaledb", "")]))
    assert standby.record.libraries == ("pg_stat_statements",)
    assert adopting.missing(standby.server.instance, ["pg_stat_statements", "timescaledb"]) == ["timescaledb"]


def test_a_missing_library_set_by_alter_system_is_refused_before_the_copy(standby: Any) -> None:
    auto = "/var/lib/postgresql/17/main/postgresql.auto.conf"
    with pytest.raises(OperationError, match="timescaledb is not installed here") as caught:
        adopting.adopt(standby, adopting.Source.of([("shared_preload_libraries", "timescaledb", auto)]))
    assert "apt install" in caught.value.hint


def test_check_reports_what_a_failover_would_lose() -> None:
    """check used to ignore libraries and an archive that only the primary had."""
    primary = ("pg_stat_statements, auto_explain", "on", "pgbackrest archive-push %p")
    plain = ("auto_explain", "off", "(disabled)")
    assert adopting.Lost.of(primary, plain) == adopting.Lost(("pg_stat_statements",), "pgbackrest archive-push %p")
    assert adopting.Lost.of(primary, primary) == adopting.Lost()
    assert adopting.Lost.of(plain, primary) == adopting.Lost()
