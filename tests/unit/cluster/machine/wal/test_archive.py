"""The archive as a whole: pruned, measured, emptied."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.archives import FIRST, MEGABYTE, NAMES, names, wal

from pgpool_cluster.ground.errors import ClusterError, ServerError
from pgpool_cluster.machine.wal import archive
from pgpool_cluster.machine.wal.archive import Stored, expendable, prune, usage
from pgpool_cluster.machine.wal.wal_files import store


def kept(name: str, hours: float) -> Stored:
    """A file that was stored so many hours before hour 100."""
    return Stored(Path(name), name, 1, 100 - hours)


SEGMENTS = [kept(f"0000000{line}00000000000000{place:02X}", hours) for line, place, hours in
            [(1, 0x01, 40), (1, 0x02, 30), (2, 0x02, 29), (2, 0x03, 20), (2, 0x04, 1)]]  # fmt: skip


@pytest.mark.parametrize(
    ("keep_from", "gone"),
    [
        ("", [0, 1, 2]),
        ("000000010000000000000001", []),
        ("000000010000000000000002", [0]),
        ("000000020000000000000002", [0]),
        ("000000020000000000000003", [0, 1, 2]),
        ("000000020000000000000004", [0, 1, 2]),
    ],
)
def test_old_files_are_deleted_unless_a_recovery_needs_them(keep_from: str, gone: list[int]) -> None:
    found = expendable(reversed(SEGMENTS), before=100 - 24, keep_from=keep_from)
    assert found == [SEGMENTS[number] for number in gone]


def test_history_files_stay_and_backup_labels_go_with_their_wal() -> None:
    stored = [kept(name, 50) for name in ("00000002.history", f"{FIRST}.00000028.backup", f"{FIRST}.partial")]
    assert {one.name for one in expendable(stored, before=76)} == {f"{FIRST}.00000028.backup", f"{FIRST}.partial"}
    assert expendable(stored, before=76, keep_from=FIRST) == []


segments = st.builds(
    lambda line, place, hours: kept(f"{line:08X}{place >> 8:08X}{place & 255:08X}", hours),
    st.integers(1, 3), st.integers(0, 1000), st.floats(0, 100),
)  # fmt: skip


@given(st.lists(segments), st.integers(0, 1000))
def test_neither_young_nor_needed_files_are_ever_deleted(stored: list[Stored], first: int) -> None:
    keep_from = f"00000001{first >> 8:08X}{first & 255:08X}"
    for one in expendable(stored, before=76, keep_from=keep_from):
        assert one.time < 76
        assert int(one.name[8:16], 16) * 256 + int(one.name[16:24], 16) < first


def test_pruning_deletes_expendable_files_from_the_disk(archive_folder: Path, pg_wal: Path) -> None:
    for number, name in enumerate([FIRST, "00000002.history", "000000010000000000000002", "000000010000000000000003"]):
        store(wal(pg_wal, name), archive_folder, compress=bool(number % 2))
    for name in (f".{FIRST}.gz.tmp", "an-administrators.note", FIRST, "00000002.history.gz"):
        path = archive_folder / name
        path.touch()
        os.utime(path, (1e9, 1e9))
    assert set(prune(archive_folder, keep_hours=1)) == {FIRST, f".{FIRST}.gz.tmp"}
    assert names(archive_folder) == [
        "000000010000000000000002", "000000010000000000000003.gz", "00000002.history.gz", "an-administrators.note",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../x", "0/3000028"])
def test_nothing_is_pruned_if_the_needed_file_is_unclear(archive_folder: Path, pg_wal: Path, name: str) -> None:
    store(wal(pg_wal), archive_folder, compress=False)
    os.utime(archive_folder / FIRST, (1e9, 1e9))
    with pytest.raises(ClusterError):
        prune(archive_folder, keep_hours=1, keep_from=name)
    assert names(archive_folder) == [FIRST]


def test_an_archive_that_cannot_be_pruned_raises_an_error(archive_folder: Path) -> None:
    with pytest.raises(ServerError, match="nowhere"):
        prune(archive_folder / "nowhere", keep_hours=1)


def test_usage_reports_how_full_the_archive_is(archive_folder: Path, pg_wal: Path) -> None:
    assert usage(archive_folder / "nowhere") is None
    empty = usage(archive_folder)
    assert empty is not None
    assert (empty.files, empty.bytes, empty.oldest, empty.newest) == (0, 0, "", "")
    last = "000000010000000000000002"
    for name in ("00000002.history", last, FIRST):
        store(wal(pg_wal, name, os.urandom(MEGABYTE)), archive_folder, compress=False)
    found = usage(archive_folder)
    assert found is not None
    assert (found.files, found.oldest, found.newest) == (3, FIRST, last)
    assert found.bytes >= 3 * MEGABYTE
    assert 0 < found.used <= 1


def test_the_archive_of_replaced_data_is_emptied_of_all_wal(archive_folder: Path, pg_wal: Path) -> None:
    for name in NAMES:
        store(wal(pg_wal, name), archive_folder, compress=False)
    (archive_folder / "an-administrators.note").touch()
    archive.clear(archive_folder)
    assert names(archive_folder) == ["an-administrators.note"]


def test_the_keeper_prunes_at_its_start_and_every_ten_minutes(
    archive_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, str]] = []
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(archive, "prune", lambda _, keep_hours, keep_from: asked.append((keep_hours, keep_from)))
    keeper = archive.Keeper(archive_folder)
    for now[0], number in ((1000.0, 1), (1002.0, 1), (1599.0, 1), (1600.0, 2), (1601.0, 2)):
        keeper.tend(keep_hours=24, keep_from=FIRST if number > 1 else "")
        assert len(asked) == number
    assert asked == [(24, ""), (24, FIRST)]


def test_a_keeper_does_not_retry_continuously_after_a_failure(archive_folder: Path) -> None:
    keeper = archive.Keeper(archive_folder / "nowhere")
    with pytest.raises(ServerError):
        keeper.tend(keep_hours=24)
    keeper.tend(keep_hours=24)
