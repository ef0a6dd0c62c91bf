"""Faults of a PostgreSQL server, each found by its own check."""

from __future__ import annotations

import os
import shutil

import pytest
from tests.unit.cluster.checked import NO_LOCALE, Break, Disk, Machine, check_of

from pgpool_cluster.decision.facts.facts import Postgresql


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: m.becomes(member=False), "this node is a member of the cluster", "member yet",
                     "pgpoolctl status", id="stranger"),
        pytest.param(lambda m: m.has(disk=Disk(0.09)), "the disk of PostgreSQL has free space", "9% is free",
                     "free space below",
                     id="disk"),
        pytest.param(lambda m: (m.folder / "data" / "recovery_1st_stage").unlink(),
                     "recovery_1st_stage is in the data directory", "missing", "pgpoolctl apply", id="no stub"),
        pytest.param(lambda m: (m.folder / "data" / "pgpool_remote_start").chmod(0o600),
                     "pgpool_remote_start is in the data directory", "missing", "pgpoolctl apply", id="no program"),
        pytest.param(lambda m: os.chown(m.folder / "data" / "recovery_2nd_stage", 54321, -1),
                     "recovery_2nd_stage is in the data directory", "the wrong owner", "pgpoolctl apply",
                     marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"), id="owner"),
        pytest.param(lambda m: m.rows("FROM pg_available_extensions"), "the extension pgpool_recovery is installed",
                     "its files are missing", "apt install --reinstall postgresql-17-pgpool2", id="extension"),
        pytest.param(lambda m: m.rows("FROM pg_available_extensions", ("1.4", "1.3")),
                     "the extension pgpool_recovery has its version", "has 1.3, the files are those of 1.4",
                     "'ALTER EXTENSION pgpool_recovery UPDATE'", id="old extension"),
        pytest.param(lambda m: m.rows("FROM pg_available_extensions", ("1.4", "")),
                     "the extension pgpool_recovery has its version", "the database has none",
                     "'CREATE EXTENSION pgpool_recovery'", id="no extension"),
        pytest.param(lambda m: m.has(inodes=0.05), "the disk of PostgreSQL has free inodes", "5% are free",
                     "du --inodes", id="inodes"),
        pytest.param(lambda m: (m.folder / "data").chmod(0o755), "only postgres can write the data directory",
                     "has mode 0755", "chmod g-w,o-rwx", id="data mode"),
        pytest.param(lambda m: m.rows("datcollversion", ("app",)), "the indexes of the databases match",
                     "app: the C library",
                     'REINDEX DATABASE "app"; ALTER DATABASE "app" REFRESH COLLATION VERSION', id="collation"),
        pytest.param(lambda m: m.rows("wal_status = 'lost'", ("pg3",)), "no replication slot has lost its WAL", "pg3",
                     "pgpoolctl recover pg3", id="lost slot"),
        pytest.param(lambda m: m.has(flags=os.ST_NOEXEC), "programs can run in the data directory", "noexec",
                     "mount -o remount,exec", id="noexec"),
        pytest.param(lambda m: m.rows("wal_log_hints", (False,)), "pg_rewind can be used", "neither wal_log_hints",
                     "systemctl restart postgresql@17-main.service", id="rewind"),
        pytest.param(lambda m: m.becomes(slots=frozenset({"pg2"})), "each standby has a replication slot",
                     "pg3 missing", "pgpoolctl converge --once", id="slot"),
    ],
)  # fmt: skip
def test_a_fault_of_the_primarys_server_fails_only_its_own_check(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_a_slot_that_fills_the_disk_is_reported_with_the_free_space(pg1: Machine) -> None:
    pg1.disk = Disk(0.05)
    pg1.rows("restart_lsn IS NOT NULL", ("pg3", 10 * 2**30))
    disk, slot = pg1.failed()
    assert (disk.what, disk.why) == ("the disk of PostgreSQL has free space", "5% is free")
    assert slot.what == "no inactive replication slot fills the disk with WAL"
    assert "slot pg3 retains 10.0 GB" in slot.why
    assert "bring pg3 back" in slot.fix


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        (lambda m: m.goes_down(Postgresql.DOWN, last_words="disk full"), "PostgreSQL 17/main runs", "down: disk full",
         "systemctl start postgresql@17-main.service"),
        (lambda m: m.goes_down(Postgresql.STARTING, refused="FATAL:  it is starting up\nmore"),
         "PostgreSQL 17/main runs", "starting: FATAL:  it is starting up",
         "systemctl start postgresql@17-main.service"),
        (lambda m: m.goes_down(Postgresql.STARTING, refused=NO_LOCALE), "PostgreSQL 17/main accepts logins",
         "this machine has no locale de_DE.UTF-8", "locale-gen; systemctl restart postgresql@17-main.service"),
    ],
)  # fmt: skip
def test_a_server_that_is_not_up_is_reported_once_with_its_own_reason(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert found.why == why
    assert fix in found.fix


def test_the_agents_hint_is_the_fix_of_a_server_that_is_down(pg1: Machine) -> None:
    pg1.becomes(postgresql=Postgresql.DOWN)
    pg1.note = "its disk is full; hint: free some space"
    (found,) = pg1.failed()
    assert found.fix == "free some space"


def test_a_data_directory_that_does_not_exist_yet_lacks_no_files(pg1: Machine) -> None:
    shutil.rmtree(pg1.folder / "data")
    pg1.becomes(postgresql=Postgresql.ABSENT)
    assert [check.what for check in pg1.failed()] == ["PostgreSQL 17/main runs"]
