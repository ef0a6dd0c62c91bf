"""Records of diverged WAL are whole or not there, limited in number and size, and the oldest is deleted first."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgpool_cluster.decision.facts.diverged_report import DivergedReport
from pgpool_cluster.decision.facts.facts import Lsn
from pgpool_cluster.ground import files
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine.wal import diverged
from pgpool_cluster.machine.wal.diverged import WalPart

SEGMENT = 2**20
REPORT = DivergedReport("20261130T171000Z-pg1-1", 1, "0/10", "0/20", 1, 0, 0)
FIRST, SECOND = "000000010000000000000003", "000000010000000000000004"


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    """Two WAL files, whose pages have their own numbers as contents."""
    folder = tmp_path / "pg_wal"
    folder.mkdir()
    for name in (FIRST, SECOND):
        pages = SEGMENT // 8192
        (folder / name).write_bytes(b"".join(bytes([number % 255 + 1]) * 8192 for number in range(pages)))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbered(number: int) -> DivergedReport:
    return replace(REPORT, name=f"2026113{number}T171000Z-pg1-1")


def test_the_name_of_a_wal_file_follows_from_its_timeline_and_position() -> None:
    assert diverged.segment_name(1, Lsn(3 * SEGMENT + 5), SEGMENT) == FIRST
    assert diverged.segment_name(0x1A, Lsn.parse("12/FE000000"), 16 * SEGMENT) == "0000001A00000012000000FE"


def test_wal_that_is_gone_makes_the_record_begin_later(wal: Path) -> None:
    assert diverged.first_on_disk(wal, 1, Lsn(3 * SEGMENT + 8), SEGMENT) == Lsn(3 * SEGMENT + 8)
    assert diverged.first_on_disk(wal, 1, Lsn(SEGMENT + 8), SEGMENT) == Lsn(3 * SEGMENT)
    assert diverged.first_on_disk(wal, 1, Lsn(5 * SEGMENT), SEGMENT) is None
    assert diverged.first_on_disk(wal, 2, Lsn(0), SEGMENT) is None
    with pytest.raises(ServerError, match="pg_none: No such file"):
        diverged.first_on_disk(wal.with_name("pg_none"), 1, Lsn(0), SEGMENT)


def test_only_the_pages_from_the_fork_on_are_kept_in_sparse_files(wal: Path, tmp_path: Path) -> None:
    start, end = Lsn(3 * SEGMENT + 20 * 8192 + 100), Lsn(4 * SEGMENT + 8192 + 1)
    parts = diverged.parts(wal, 1, start, end, SEGMENT)
    assert parts == (WalPart(wal / FIRST, 20 * 8192, SEGMENT), WalPart(wal / SECOND, 0, 3 * 8192))
    kept = diverged.store(tmp_path / "diverged", REPORT, parts, "one transaction\n")
    record = tmp_path / "diverged" / REPORT.name
    assert names(record) == [FIRST, SECOND, "summary.json", "transactions.txt"]
    first, second = ((record / name).read_bytes() for name in (FIRST, SECOND))
    assert len(first) == len(second) == SEGMENT
    whole = (wal / FIRST).read_bytes()
    assert first[:8192] == whole[:8192], "pg_waldump finds the size of the file there"
    assert first[8192 : 20 * 8192] == bytes(19 * 8192)
    assert first[20 * 8192 :] == whole[20 * 8192 :]
    assert second[: 3 * 8192] == (wal / SECOND).read_bytes()[: 3 * 8192]
    assert second[3 * 8192 :] == bytes(SEGMENT - 3 * 8192)
    assert (record / "transactions.txt").read_text() == "one transaction\n"
    assert diverged.listed(tmp_path / "diverged") == (kept,)
    assert kept.bytes >= (record / FIRST).stat().st_blocks * 512
    assert [(record.stat().st_mode & 0o777), (record / FIRST).stat().st_mode & 0o777] == [0o700, 0o600]


def test_a_part_of_a_record_that_fails_is_removed_and_named(
    wal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    folder = tmp_path / "diverged"
    with pytest.raises(ServerError, match="diverged: No space left on device") as failure:
        diverged.store(folder, REPORT, [WalPart(wal / FIRST, 0, 8192)], "")
    assert failure.value.hint.startswith("free space if df ")
    assert names(folder) == []


def test_what_a_crash_has_left_is_never_listed_and_goes_with_the_next_record(wal: Path, tmp_path: Path) -> None:
    folder = tmp_path / "diverged"
    left = folder / f".{numbered(0).name}"
    left.mkdir(parents=True)
    (left / FIRST).touch()
    (folder / "notes of an administrator").mkdir()
    assert diverged.listed(folder) == ()
    diverged.store(folder, REPORT, [WalPart(wal / FIRST, 0, 8192)], "")
    assert names(folder) == [REPORT.name, "notes of an administrator"]


def test_the_oldest_record_makes_room_for_a_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "diverged"
    for number in range(diverged.MOST_RECORDS + 1):
        diverged.store(folder, replace(REPORT, name=f"202611{number + 10}T171000Z-pg1-1"), [], "")
    found = [one.name[:8] for one in diverged.listed(folder)]
    assert found == [f"202611{number + 10}" for number in range(1, diverged.MOST_RECORDS + 1)]
    assert f"deleting {folder}/20261110T171000Z-pg1-1, the oldest record" in capsys.readouterr().out


def test_old_records_go_if_all_together_would_be_too_large(
    wal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diverged, "MOST_BYTES", 5 * SEGMENT // 2)
    for number in range(3):
        diverged.store(tmp_path / "diverged", numbered(number), [WalPart(wal / FIRST, 0, SEGMENT)], "")
    assert names(tmp_path / "diverged") == [numbered(1).name, numbered(2).name]


def test_a_full_disk_costs_old_records_and_then_the_record_is_refused(
    wal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "diverged"
    diverged.store(folder, numbered(0), [WalPart(wal / FIRST, 0, SEGMENT)], "")
    disk = SimpleNamespace(free=30 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    with pytest.raises(ServerError, match="the disk is full: the record has 1 MB, and 32 MB have to stay free"):
        diverged.store(folder, numbered(1), [WalPart(wal / FIRST, 0, SEGMENT // 2)], "")
    assert names(folder) == [numbered(0).name], "an older record is not deleted in vain"
    disk.free = 32 * 2**20
    diverged.store(folder, numbered(1), [WalPart(wal / FIRST, 0, SEGMENT // 2)], "")
    assert names(folder) == [numbered(1).name]


@pytest.mark.parametrize(
    "summary",
    ["", "[]", "{}", json.dumps({"name": "other"}), "x" * 100],
)
def test_a_record_with_an_odd_summary_is_not_listed(summary: str, tmp_path: Path) -> None:
    folder = tmp_path / "diverged"
    diverged.store(folder, REPORT, [], "")
    files.write(folder / REPORT.name / diverged.SUMMARY, summary.encode())
    assert diverged.listed(folder) == ()


@pytest.mark.parametrize("change", [{"bytes": "1"}, {"begins": 1}, {"name": "20261130T171000Z-pg2-1"}])
def test_a_summary_with_a_value_of_another_type_is_not_believed(change: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / "diverged"
    diverged.store(folder, REPORT, [], "")
    path = folder / REPORT.name / diverged.SUMMARY
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert diverged.listed(folder) == ()
