"""The file of a node's events: torn lines, rotation, and odd files in its place."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pgpool_cluster.decision.reports.events import Event
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import history_file
from pgpool_cluster.machine.history_file import HistoryFile

EVENT = Event(1000.0, "pg2", "promote", "promote pg2 term 2", term=2, seconds=0.8)


@pytest.fixture
def file(tmp_path: Path) -> HistoryFile:
    return HistoryFile(tmp_path / "history.jsonl")


def numbered(count: int) -> list[Event]:
    return [replace(EVENT, term=number) for number in range(count)]


def test_events_are_read_in_the_order_in_which_they_were_appended(file: HistoryFile) -> None:
    assert file.load() == []
    for event in numbered(3):
        file.append(event)
    assert file.load() == numbered(3)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_line_that_a_crash_has_cut_off_is_ignored_and_spoils_no_other(file: HistoryFile) -> None:
    for event in numbered(2):
        file.append(event)
    whole = file.path.read_bytes()
    for cut in range(1, len(whole) // 2):
        file.path.write_bytes(whole[:-cut])
        assert file.load() == numbered(1)
        file.append(numbered(3)[2])
        assert file.load() == [numbered(3)[0], numbered(3)[2]]


@pytest.mark.parametrize("odd", [b"\xff\xfe", b"[" * 100_000, b"null", b"{}", b'{"time": "x"}', b"\0" * 4096])
def test_a_damaged_line_is_ignored(odd: bytes, file: HistoryFile) -> None:
    file.append(EVENT)
    file.path.write_bytes(file.path.read_bytes() + b"\n" + odd)
    file.append(EVENT)
    assert file.load() == [EVENT, EVENT]


def test_the_files_stay_small_and_keep_the_latest_events(file: HistoryFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, "_FULL_BYTES", 2000)
    for event in numbered(100):
        file.append(event)
        sizes = [path.stat().st_size for path in (file.path, file.before) if path.exists()]
        assert sum(sizes) < 2 * (2000 + 200)
    found = file.load()
    assert len(found) >= 10
    assert found == numbered(100)[-len(found) :]
    assert sorted(path.name for path in file.path.parent.iterdir()) in (
        ["history.jsonl", "history.jsonl.1"], ["history.jsonl.1"],
    )  # fmt: skip


def test_a_link_in_place_of_the_file_is_not_followed(file: HistoryFile, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    file.path.symlink_to(tmp_path / "other")
    with pytest.raises(ServerError, match="cannot be written"):
        file.append(EVENT)
    with pytest.raises(ServerError, match="symbolic link"):
        file.load()
    assert (tmp_path / "other").read_text() == "mine"


def test_a_folder_that_is_missing_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"history\.jsonl cannot be written: No such file"):
        HistoryFile(tmp_path / "absent" / "history.jsonl").append(EVENT)
