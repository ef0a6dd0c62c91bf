"""A copy of another node: the steps around pg_basebackup and pg_rewind, which stand-ins replace, and their failures."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.clock import Clock

from pgpool_cluster.copying import copy_source, copy_target, copying, keeping
from pgpool_cluster.decision.facts.facts import NodeFacts, Postgresql
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground import paths, programs, waiting
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.machine.wal import archive
from pgpool_cluster.node.node import Here
from pgpool_cluster.postgresql import locales, server_log
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport import pulse
from pgpool_cluster.transport.peers import Peers

NODES = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}"
STREAMS, NATIVE = (parse(f"{mode}{NODES}", "cluster.yml", "pg2") for mode in ("", "mode: native_replication\n"))
FOLLOWS = NodeFacts(
    "pg2", postgresql=Postgresql.UP, system=7, in_recovery=True, standby_signal=True, streaming=True, follows="pg1"
)
DOWN = NodeFacts("pg2", postgresql=Postgresql.DOWN, system=7)
PROGRAM = """#!/bin/sh
printf '%s\\n' "$@" >{folder}/arguments
cp {folder}/record.json {folder}/record-meanwhile.json
ls {folder}/data >{folder}/data-meanwhile
mkdir -p {folder}/data/base && echo new >{folder}/data/base/1
{more}
"""


class Source:
    """PostgreSQL of pg1 as the copy's connection to it sees it. `broken`: the SQL that fails, by a part of it."""

    def __init__(self) -> None:
        self.version, self.slots, self.broken = 170004, ["pg2"], ""
        self.settings = [("max_connections", "100", ""), ("shared_preload_libraries", "", "")]
        self.tablespaces: list[tuple[str, int]] = [("", 1000), ("", 2000)]
        self.refuses = ""
        self.sent: list[str] = []
        self.opened = self.closed = 0
        self.dsn = ""

    def connect(self, dsn: str, **_: object) -> Any:
        self.dsn = dsn
        if self.refuses:
            raise psycopg2.OperationalError(self.refuses)
        self.opened += 1

        @contextmanager
        def cursor() -> Iterator[Any]:
            yield SimpleNamespace(execute=self._execute, fetchall=lambda: self._rows, fetchone=self._row)

        return SimpleNamespace(server_version=self.version, cursor=cursor, close=self._close)

    def _close(self) -> None:
        self.closed += 1

    def _execute(self, sql: str, values: tuple[object, ...] = ()) -> None:
        self.sent.append(sql)
        if self.broken and self.broken in sql:
            raise psycopg2.OperationalError("it is gone\n")
        self._rows: list[Any] = []
        if "FROM pg_settings" in sql:
            self._rows = self.settings
        elif sql == locales.NEEDED:
            self._rows = [("C.UTF-8",)]
        elif "FROM pg_replication_slots" in sql:
            self._rows = [(1,)] if values[0] in self.slots else []
        elif "FROM pg_tablespace" in sql:
            self._rows = self.tablespaces

    def _row(self) -> Any:
        return next(iter(self._rows), None)


class Target:
    """pg2, whose data a copy replaces. `steps`: the services that were stopped and started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.data = folder, folder / "data"
        (self.data / "base").mkdir(parents=True)
        (self.data / "base" / "1").write_text("old\n")
        (self.data / "pg_wal").mkdir()
        (self.data / "PG_VERSION").write_text("17\n")
        self.facts, self.after = replace(FOLLOWS, follows="pg3"), FOLLOWS
        self.steps: list[str] = []
        self.said: list[str] = []
        self.fails_to_start = False
        self.kept: list[tuple[str, list[str], str]] = []
        """From which source WAL was kept, after which steps, and with which `copying` in the record."""
        self.not_kept, self.folder_of_wal = "", ""
        self.major, self.control = 17, {"Database system identifier": "7"}
        self.configured = {"max_connections": 100}
        self.absent: list[str] = []
        self.source = Source()
        self.cluster = STREAMS
        self.unit = UnitState("inactive", "success", was_active=True)
        self.record = Record(system=7, term=1)
        self.record.save(folder / "record.json")
        self._here: Here | None = None
        (folder / "bin").mkdir()
        for name in ("pg_basebackup", "pg_rewind"):
            self.program(name, "")
        monkeypatch.setattr(copy_source, "connect", self.source.connect)
        monkeypatch.setattr(Instance, "program", lambda _, name: str(folder / "bin" / name))
        monkeypatch.setattr(Here, "look", lambda _: self.facts)
        monkeypatch.setattr(pg, "start", self._start)
        monkeypatch.setattr(pg, "stop", lambda _: self.steps.append("stop"))
        monkeypatch.setattr(pg, "configured", lambda *_, **__: self.configured)
        monkeypatch.setattr(pg, "setting", lambda *_, **__: "")
        monkeypatch.setattr(pg, "control_data", lambda _: self.control)
        monkeypatch.setattr(units, "state", lambda _: self.unit)
        monkeypatch.setattr(units, "control", self.steps.append)
        monkeypatch.setattr(locales, "missing", lambda _: self.absent)
        monkeypatch.setattr(server_log, "last_words", lambda _: "")
        monkeypatch.setattr(copying, "_writing_through", self._writing_through)
        monkeypatch.setattr(keeping, "keep", self._keep)
        for name in ("RECORD", "DATABASE", "ROOT_CERTIFICATE", "ARCHIVE"):
            monkeypatch.setattr(paths, name, folder / f"{name.lower()}.json")
        paths.DATABASE.write_text("pgpool2_cluster\n")

    @property
    def here(self) -> Here:
        if self._here is None:
            instance = Instance(PostgresqlCluster(self.major, "main"), 5432, self.data)
            database: Any = SimpleNamespace(instance=instance, query=lambda *_: [(8,)])
            self._here = Here(self.cluster, self.cluster.named("pg2"), database, Peers({}), self.record)
        return self._here

    def program(self, name: str, more: str) -> None:
        """Let one of PostgreSQL's programs also run these lines of shell."""
        path = self.folder / "bin" / name
        path.write_text(PROGRAM.format(folder=self.folder, more=more))
        path.chmod(0o755)

    def remembers(self, **changes: object) -> None:
        self.record = self.record.with_changes(**changes)

    def _start(self, _: object, *, seconds: float) -> None:
        self.steps.append(f"start within {seconds:g} s{', by the agent' if self.here.under_way.starting else ''}")
        if self.fails_to_start:
            raise OperationError("it does not start", hint="its log")
        self.facts = self.after

    def _keep(self, here: Here, source: str) -> str:
        self.kept.append((source, list(self.steps), here.record.copying))
        if self.not_kept:
            raise keeping.NotKeptError(self.not_kept, hint="free space")
        return self.folder_of_wal

    @contextmanager
    def _writing_through(self, data: Path) -> Iterator[None]:
        assert data == self.data
        yield
        self.steps.append("written to disk" if self.copied else "nothing was copied")

    def clone(self, *, member: bool = True) -> None:
        copying.clone(self.here, "pg1", self.said.append, member=member)

    def rejoin(self) -> None:
        copying.rejoin(self.here, "pg1", self.said.append)

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "arguments").read_text().splitlines()

    @property
    def copied(self) -> bool:
        return (self.folder / "arguments").exists()

    def meanwhile(self) -> tuple[str, list[str]]:
        """Return the record's `copying`, and the names in the data directory, from while the program was running."""
        record = json.loads((self.folder / "record-meanwhile.json").read_text())
        return record["copying"], (self.folder / "data-meanwhile").read_text().split()


@pytest.fixture
def pg2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    return Target(tmp_path, monkeypatch)


# A base backup


def test_a_copy_replaces_all_data_and_starts_as_a_standby(pg2: Target) -> None:
    (pg2.data / "postgresql.auto.conf").write_text("port = 1\n")
    pg2.clone()
    assert pg2.steps == ["stop", "written to disk", "start within 300 s, by the agent"]
    assert pg2.meanwhile() == ("pg1", [])
    assert (pg2.data / "base" / "1").read_text() == "new\n"
    assert (pg2.data / "standby.signal").exists()
    conninfo = pg.conninfo(STREAMS, "pg2", "pg1")
    assert (pg2.data / "postgresql.auto.conf").read_text() == f"primary_conninfo = '{conninfo}'\n"
    assert (pg2.here.record.copying, pg2.here.record.system, bool(pg2.here.under_way.starting)) == ("", 8, False)
    assert Record.load(paths.RECORD) == pg2.here.record
    assert pg2.said == ["copying pg1", "starting it as a standby"]
    assert (pg2.data.stat().st_mode & 0o777) == 0o700


def test_pg_basebackup_streams_over_the_nodes_slot_as_the_replication_role(pg2: Target) -> None:
    pg2.clone()
    assert f"--pgdata={pg2.data}" in pg2.arguments
    assert "--slot=pg2" in pg2.arguments
    assert {"--no-password", "--checkpoint=fast", "--wal-method=stream"} <= set(pg2.arguments)
    (dsn,) = (one for one in pg2.arguments if one.startswith("--dbname="))
    assert f"host=10.0.0.1 port=5432 user={Role.REPLICATION}" in dsn
    assert not [one for one in pg2.arguments if one.startswith("--waldir")]


def test_the_slot_is_created_on_the_source_only_if_it_is_missing(pg2: Target) -> None:
    pg2.clone()
    assert not [sql for sql in pg2.source.sent if "pg_create_physical_replication_slot" in sql]
    pg2.source.slots.clear()
    pg2.clone()
    assert [sql for sql in pg2.source.sent if "pg_create_physical_replication_slot" in sql]


def test_the_source_is_asked_as_the_recovery_role_in_the_roles_own_database(pg2: Target) -> None:
    pg2.clone()
    assert f"user={Role.RECOVERY} " in pg2.source.dsn
    assert pg2.source.dsn.endswith(" dbname=pgpool2_cluster")
    assert pg2.source.opened == pg2.source.closed == 1
    assert "CHECKPOINT" not in pg2.source.sent, "pg_basebackup requests one itself"


def test_a_linked_pg_wal_is_emptied_and_stays_where_it_is(pg2: Target, tmp_path: Path) -> None:
    wal = tmp_path / "disk"
    (wal / "archive_status").mkdir(parents=True)
    (wal / "000000010000000000000001").touch()
    (pg2.data / "pg_wal").rmdir()
    (pg2.data / "pg_wal").symlink_to(wal)
    pg2.clone()
    assert f"--waldir={wal}" in pg2.arguments
    assert list(wal.iterdir()) == []
    assert "pg_wal" not in pg2.meanwhile()[1]


def test_tablespaces_lose_the_data_of_this_major_only(pg2: Target, tmp_path: Path) -> None:
    """A tablespace's folder can hold the data of a second server with another major."""
    there, former = tmp_path / "there", tmp_path / "former"
    for folder in (there / "PG_17_202406281", there / "PG_16_202307071", former / "PG_17_202406281"):
        folder.mkdir(parents=True)
    (pg2.data / "pg_tblspc").mkdir()
    (pg2.data / "pg_tblspc" / "16400").symlink_to(former)
    pg2.source.tablespaces = [("", 1000), (str(there), 1000), (str(tmp_path / "new"), 1)]
    pg2.clone()
    assert [path.name for path in there.iterdir()] == ["PG_16_202307071"]
    assert list(former.iterdir()) == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_emptied_is_named(pg2: Target, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match=f"{tmp_path}/file/space: Not a directory") as failure:
        copy_target.empty(pg2.here.server.instance, {tmp_path / "file" / "space": 1})
    assert failure.value.hint.startswith("install -d -o postgres")


def test_the_space_of_the_replaced_data_counts_as_free(pg2: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    (pg2.data / "base" / "2").write_bytes(b"x" * 2**20)
    copy_target.refuse_small_disks({pg2.data: 2**20})
    with pytest.raises(ServerError, match="the copy needs 3 MB, and 1 MB are free"):
        copy_target.refuse_small_disks({pg2.data: 3 * 2**20})


def test_progress_is_reported_in_bytes_and_each_value_once(
    pg2: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    beats: list[float] = []
    monkeypatch.setattr(pulse, "beat", beats.append)
    lines = "waiting for checkpoint\\n  10/200 kB (5%%)\\r  10/200 kB (5%%)\\r 220/200 kB (110%%)\\n"
    pg2.program("pg_basebackup", f"printf '{lines}' >&2")
    pg2.clone()
    shown = ["10240 of 204800 bytes (5 %)", "225280 of 204800 bytes (100 %)"]
    assert pg2.said == ["copying pg1", *shown, "starting it as a standby"]
    assert "pg_basebackup: waiting for checkpoint" in capsys.readouterr().out
    assert len(beats) >= 5, "each line shows systemd that the agent makes progress"


def test_a_failed_copy_is_reported_with_its_reason_and_remembered(pg2: Target) -> None:
    pg2.program("pg_basebackup", "echo 'pg_basebackup: error: could not write: No space left on device' >&2; exit 1")
    with pytest.raises(OperationError, match="could not write") as failure:
        pg2.clone()
    assert failure.value.message == "pg_basebackup: could not write: No space left on device"
    assert (pg2.here.record.copying, pg2.here.record.system) == ("pg1", 7)
    assert pg2.steps == ["stop"], "half a copy is not started"


def test_a_program_that_fails_without_a_word_is_reported_with_its_status(pg2: Target) -> None:
    pg2.program("pg_basebackup", "exit 3")
    with pytest.raises(OperationError, match="pg_basebackup: exit status 3"):
        pg2.clone()


def test_a_copy_that_does_not_start_stays_half_a_copy(pg2: Target) -> None:
    pg2.fails_to_start = True
    with pytest.raises(OperationError, match="it does not start"):
        pg2.clone()
    assert (pg2.here.record.copying, bool(pg2.here.under_way.starting)) == ("pg1", False)


def test_a_copy_counts_as_ended_once_it_streams(pg2: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then may `status` forget that earlier copies have failed."""
    ended: list[str] = []
    monkeypatch.setattr(type(pg2.here.under_way.copies), "end", lambda _: ended.append("end"))
    monkeypatch.setattr(type(pg2.here.under_way.copies), "begin", lambda _, source: ended.append(f"begin {source}"))
    pg2.clone()
    assert ended == ["begin pg1", "end"]
    pg2.clone(member=False)
    assert ended == ["begin pg1", "end", "begin pg1"]


# If every node is a primary


def test_the_first_stage_of_native_replication_leaves_half_a_copy_that_streams(pg2: Target) -> None:
    pg2.cluster = NATIVE
    paths.ARCHIVE.mkdir()
    (paths.ARCHIVE / "000000010000000000000001").touch()
    pg2.clone(member=False)
    lines = (pg2.data / "postgresql.auto.conf").read_text().splitlines()
    assert lines[1:] == ["primary_slot_name = 'pg2'", "restore_command = ''"]
    assert pg2.here.record.copying == "pg1"
    assert list(paths.ARCHIVE.iterdir()) == []


def test_with_streaming_no_archive_is_cleared(pg2: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[Path] = []
    monkeypatch.setattr(archive, "clear", cleared.append)
    pg2.clone()
    assert cleared == []


# Refusals before anything is deleted


@pytest.mark.parametrize(
    ("change", "why", "hint"),
    [
        pytest.param({"refuses": "FATAL:  no pg_hba.conf entry\n"}, "cannot copy from pg1: FATAL:  no pg_hba.conf",
                     "psql '", id="no login"),
        pytest.param({"version": 160009}, "pg1 runs PostgreSQL 16, this node 17/main", "apt install postgresql-16 here",
                     id="another major"),
        pytest.param({"settings": [("max_connections", "200", "")]}, "max_connections = 200 there, 100 here",
                     "postgresql_conf: {max_connections: 200}", id="lower here"),
        pytest.param({"tablespaces": [("", 1 << 60)]}, "the copy needs", "free space on that disk", id="no space"),
        pytest.param({"broken": "FROM pg_tablespace"}, "cannot copy from pg1: it is gone", "psql '",
                     id="a lost connection"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_copied_costs_no_data(change: dict[str, Any], why: str, hint: str, pg2: Target) -> None:
    for name, value in change.items():
        setattr(pg2.source, name, value)
    with pytest.raises((OperationError, ServerError), match=why) as refusal:
        pg2.clone()
    assert hint in refusal.value.hint
    assert (pg2.data / "base" / "1").read_text() == "old\n"
    assert (pg2.copied, pg2.here.record.copying) == (False, "")
    assert "stop" not in pg2.steps
    assert pg2.source.opened == pg2.source.closed


def test_a_machine_without_a_locale_of_the_source_keeps_its_data(pg2: Target) -> None:
    pg2.absent = ["de_DE.utf8"]
    with pytest.raises(OperationError, match=r"this machine has no locale de_DE\.utf8") as refusal:
        pg2.clone()
    assert "locale-gen" in refusal.value.hint
    assert (pg2.copied, pg2.steps) == (False, [])


def test_a_mount_point_in_the_data_is_refused_while_the_server_runs(
    pg2: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "base")
    with pytest.raises(ServerError, match="base is a mount point"):
        pg2.clone()
    assert (pg2.steps, pg2.here.record.copying) == ([], "")


# The server before the copy


@pytest.mark.parametrize(
    ("state", "unit", "running", "stopped"),
    [
        (Postgresql.UP, "active", True, True),
        (Postgresql.STARTING, "activating", True, True),
        (Postgresql.DOWN, "failed", True, True),  # postmaster.pid is a leftover, or systemd did not start the server
        (Postgresql.DOWN, "failed", False, False),
        (Postgresql.ABSENT, "inactive", False, False),
        (Postgresql.ABSENT, "failed", False, False),
        (Postgresql.ABSENT, "activating", False, True),
    ],
)
def test_a_server_is_stopped_if_it_could_still_write(
    state: Postgresql, unit: str, running: bool, stopped: bool, pg2: Target
) -> None:
    pg2.facts = replace(DOWN, postgresql=state)
    pg2.unit = UnitState(unit, "success", was_active=True)
    if running:
        (pg2.data / "postmaster.pid").touch()
    copying._stop_server(pg2.here)
    assert pg2.steps == (["stop"] if stopped else [])


# pg_rewind


def test_a_former_primary_is_rewound(pg2: Target) -> None:
    (pg2.data / "standby.signal").touch()
    pg2.rejoin()
    assert f"--target-pgdata={pg2.data}" in pg2.arguments
    assert "--config-file=/etc/postgresql/17/main/postgresql.conf" in pg2.arguments
    assert f"--source-server={pg2.source.dsn}" in pg2.arguments
    copying_, names = pg2.meanwhile()
    assert copying_ == "pg1"
    assert "PG_VERSION" in names, "the data stays"
    assert "standby.signal" not in names, "with it, pg_rewind's crash recovery of the data would not end"
    assert (pg2.data / "standby.signal").exists()
    assert "CHECKPOINT" in pg2.source.sent, "before 16, pg_rewind reads the timeline from the control file"
    assert (pg2.steps, pg2.here.record.copying) == (["stop", "start within 300 s, by the agent"], "")
    assert pg2.said == ["rewinding to the point where pg1 diverged", "starting it as a standby"]


def test_a_rewind_that_fails_is_followed_by_a_copy(pg2: Target) -> None:
    pg2.program("pg_rewind", "echo 'pg_rewind: error: could not find previous WAL record' >&2; exit 1")
    pg2.rejoin()
    assert "pg_rewind does not suffice: pg_rewind: could not find previous WAL record" in pg2.said
    assert f"--pgdata={pg2.data}" in pg2.arguments
    assert pg2.here.record.copying == ""


# WAL that only this node has


def test_wal_is_kept_once_the_server_has_ended_and_before_data_changes(pg2: Target) -> None:
    pg2.rejoin()
    pg2.clone()
    stopped = ["stop", "start within 300 s, by the agent", "stop"]
    assert pg2.kept == [("pg1", ["stop"], ""), ("pg1", stopped, "")]


def test_the_folder_with_its_wal_is_named(pg2: Target) -> None:
    pg2.folder_of_wal = "/kept/here"
    pg2.rejoin()
    assert pg2.said[0] == "WAL that only pg2 has is kept in /kept/here"


@pytest.mark.parametrize("way", [Target.rejoin, Target.clone])
def test_without_the_record_of_its_wal_no_data_is_replaced(way: Callable[[Target], None], pg2: Target) -> None:
    pg2.not_kept = "the disk is full"
    with pytest.raises(keeping.NotKeptError, match="the disk is full"):
        way(pg2)
    assert not pg2.copied
    assert (pg2.here.record.copying, (pg2.data / "base" / "1").read_text()) == ("", "old\n")
    assert pg2.said == [], "neither pg_rewind nor pg_basebackup has begun"


def test_an_administrator_may_lose_wal_that_cannot_be_kept(pg2: Target) -> None:
    pg2.not_kept = "the disk is full"
    copying.clone(pg2.here, "pg1", pg2.said.append, loses=True)
    assert pg2.said[:2] == ["the disk is full; it is lost", "copying pg1"]
    assert pg2.here.record.copying == ""


def test_a_standby_that_streams_begins_a_new_series_of_tries(pg2: Target) -> None:
    pg2.here.under_way.returns.begin("pg1")
    pg2.here.under_way.returns.failed(OperationError("pg1 is unreachable", hint=""))
    pg2.rejoin()
    assert pg2.here.under_way.returns.said == ""


@pytest.mark.parametrize(
    ("copying_", "system", "major", "rewound"),
    [("", "7", 17, True), ("", "7", 15, True), ("", "7", 14, False), ("", "9", 17, False), ("pg1", "7", 17, False)],
    ids=["whole", "15", "14", "another system", "half a copy"],
)
def test_only_whole_data_of_this_cluster_is_rewound(
    copying_: str, system: str, major: int, rewound: bool, pg2: Target
) -> None:
    pg2.remembers(copying=copying_)
    pg2.control, pg2.major = {"Database system identifier": system}, major
    pg2.source.version = major * 10000 + 1
    pg2.rejoin()
    assert (f"--target-pgdata={pg2.data}" in pg2.arguments) is rewound


def test_a_server_whose_control_file_cannot_be_read_is_copied(pg2: Target) -> None:
    pg2.control = {}
    pg2.rejoin()
    assert f"--pgdata={pg2.data}" in pg2.arguments


# The start of streaming


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock(0.0)
    monkeypatch.setattr(waiting, "time", found)
    return found


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(replace(FOLLOWS, streaming=False), id="not yet"),
        pytest.param(replace(FOLLOWS, follows="pg3"), id="from another node"),
        pytest.param(replace(FOLLOWS, in_recovery=False), id="a primary"),
        pytest.param(DOWN, id="down"),
    ],
)
def test_a_standby_that_does_not_stream_within_30_s_is_reported(facts: NodeFacts, pg2: Target, clock: Clock) -> None:
    pg2.facts = facts
    with pytest.raises(OperationError, match="it does not receive from pg1: nothing received within 30 s") as failure:
        copying.await_streaming(pg2.here, "pg1")
    assert failure.value.hint == "pgpoolctl recover pg2"
    assert 30 <= clock.now < 31


def test_the_servers_own_words_are_the_reason(pg2: Target, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pg2.facts = DOWN
    monkeypatch.setattr(server_log, "last_words", lambda _: 'replication slot "pg2" does not exist')
    with pytest.raises(OperationError, match='from pg1: replication slot "pg2" does not exist'):
        copying.await_streaming(pg2.here, "pg1")
    assert clock.now >= 30


def test_a_server_that_answers_late_is_asked_again(pg2: Target, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(_: Here) -> NodeFacts:
        if clock.now < 5:
            raise OperationError("pg2 cannot collect its own facts", hint="dmesg")
        return FOLLOWS

    monkeypatch.setattr(Here, "look", look)
    copying.await_streaming(pg2.here, "pg1")
    assert 5 <= clock.now < 6


# Logins and the disk


def test_a_refused_login_is_reported_on_one_line_as_the_server_words_it(pg2: Target) -> None:
    pg2.source.refuses = "connection to server failed: FATAL:  no\n\tDETAIL:  more\n"
    assert (
        copy_source.refusal(STREAMS.named("pg1"), Role.CHECK)
        == "connection to server failed: FATAL:  no; DETAIL:  more"
    )
    assert f"user={Role.CHECK} " in pg2.source.dsn
    pg2.source.refuses = ""
    assert copy_source.refusal(STREAMS.named("pg1"), Role.CHECK) == ""
    assert pg2.source.opened == pg2.source.closed == 1


def _fail_after(synced: threading.Event) -> None:
    assert synced.wait(10)
    raise OperationError("no space", hint="")


def test_files_are_written_to_disk_while_the_copy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    commands: list[list[str]] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(words)
        synced.set()
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(copying, "_SYNC_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(programs, "attempt", run)
    before = threading.active_count()
    with pytest.raises(OperationError, match="no space"), copying._writing_through(tmp_path):
        _fail_after(synced)
    assert commands[0] == ["sync", "--file-system", str(tmp_path)]
    assert threading.active_count() == before, "it ends with the copy"
