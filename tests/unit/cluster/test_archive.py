"""The WAL archive holds whole files or none, overwrites none, and deletes none that is still needed."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_cluster import archive, paths
from pgpool_cluster.archive import STOP, Stored, expendable, prune, restore, store, usage
from pgpool_cluster.errors import ClusterError, OperationError, ServerError, UsageError

FIRST = "000000010000000000000001"
MEGABYTE = 1 << 20
HALF_EMPTY = os.urandom(300_000) + bytes(MEGABYTE - 300_000)
NAMES = [FIRST, f"{FIRST}.partial", f"{FIRST}.00000028.backup", "00000002.history"]
TRICKS = ["", ".", "..", "../x", "/etc/passwd", f"{FIRST}/../x", f"{FIRST}.gz", f"{FIRST}\n", FIRST[:-1], f"{FIRST}0",
          "00000001000000000000000a", "$(reboot)", "x.history", f"{FIRST}.backup", "--compress"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "archive"
    found.mkdir()
    return found


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    found = tmp_path / "pg_wal"
    found.mkdir()
    return found


def wal(pg_wal: Path, name: str = FIRST, content: bytes = HALF_EMPTY) -> Path:
    path = pg_wal / name
    path.write_bytes(content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [HALF_EMPTY, bytes(MEGABYTE), os.urandom(MEGABYTE)], ids=["half", "zeros", "full"])
def test_a_stored_file_is_restored_unchanged(
    folder: Path, pg_wal: Path, name: str, compress: bool, content: bytes
) -> None:
    store(wal(pg_wal, name, content), folder, compress=compress)
    assert names(folder) == [f"{name}.gz" if compress else name]
    assert restore(name, folder, pg_wal / "RECOVERYXLOG")
    assert (pg_wal / "RECOVERYXLOG").read_bytes() == content
    assert names(pg_wal) == sorted([name, "RECOVERYXLOG"])


@pytest.mark.parametrize("compress", [False, True])
def test_archived_wal_is_postgres_alone(folder: Path, pg_wal: Path, compress: bool) -> None:
    store(wal(pg_wal), folder, compress=compress)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_file_switched_early_by_archive_timeout_takes_little_space(folder: Path, pg_wal: Path) -> None:
    store(wal(pg_wal), folder, compress=False)
    assert (folder / FIRST).stat().st_blocks * 512 < MEGABYTE / 2


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_the_same_file_once_more_is_success_and_changes_nothing(
    folder: Path, pg_wal: Path, compress: bool, again: bool
) -> None:
    store(wal(pg_wal), folder, compress=compress)
    (there,) = folder.iterdir()
    before = there.stat()
    store(wal(pg_wal), folder, compress=again)
    assert list(folder.iterdir()) == [there]
    assert (there.stat().st_ino, there.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("other", [HALF_EMPTY[:-1], HALF_EMPTY + b"x", b"", b"x" + HALF_EMPTY[1:]])
def test_another_file_of_that_name_is_never_written_over(
    folder: Path, pg_wal: Path, compress: bool, other: bytes
) -> None:
    store(wal(pg_wal), folder, compress=compress)
    (there,) = folder.iterdir()
    before = there.read_bytes()
    with pytest.raises(OperationError) as caught:
        store(wal(pg_wal, content=other), folder, compress=compress)
    assert str(there) in caught.value.message
    assert str(pg_wal / FIRST) in caught.value.message
    assert (names(folder), there.read_bytes()) == ([there.name], before)


def test_a_damaged_file_of_that_name_counts_as_another(folder: Path, pg_wal: Path) -> None:
    (folder / f"{FIRST}.gz").write_bytes(gzip.compress(HALF_EMPTY)[:1000])
    with pytest.raises(OperationError, match="differs"):
        store(wal(pg_wal), folder, compress=True)


@pytest.mark.parametrize("compress", [False, True])
def test_a_partial_copy_left_by_a_crash_is_replaced(folder: Path, pg_wal: Path, compress: bool) -> None:
    final = f"{FIRST}.gz" if compress else FIRST
    (folder / f".{final}.tmp").write_bytes(os.urandom(2 * MEGABYTE))
    store(wal(pg_wal), folder, compress=compress)
    assert names(folder) == [final]
    assert restore(FIRST, folder, pg_wal / "out")
    assert (pg_wal / "out").read_bytes() == HALF_EMPTY


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def half_way(error: BaseException) -> Callable[[IO[bytes]], Iterator[bytes]]:
    def chunks(reader: IO[bytes]) -> Iterator[bytes]:
        yield reader.read(1 << 17)
        raise error

    return chunks


FAULTS: dict[str, tuple[object, str, Callable[[int], object]]] = {
    "copy": (archive, "_chunks", lambda number: half_way(OSError(number, os.strerror(number)))),
    "fsync": (os, "fsync", failing),
    "rename": (Path, "rename", failing),
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_if_the_disk_fails_no_file_is_left_and_one_line_says_why(
    tmp_path: Path, compress: bool, number: int, fault: tuple[object, str, Callable[[int], object]]
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    source = wal(tmp_path)
    where, name, fails = fault
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(where, name, fails(number))
        with pytest.raises(ServerError) as caught:
            store(source, folder, compress=compress)
    assert caught.value.message == f"{folder}: {os.strerror(number)}"
    assert names(folder) == []
    store(source, folder, compress=compress)
    assert restore(FIRST, folder, tmp_path / "out")


def test_an_interrupted_copy_leaves_nothing_under_the_name(
    folder: Path, pg_wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ended:
        ended.setattr(archive, "_chunks", half_way(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store(wal(pg_wal), folder, compress=False)
    assert names(folder) == []


def test_a_missing_folder_or_source_is_named(folder: Path, pg_wal: Path) -> None:
    with pytest.raises(ServerError, match="nowhere"):
        store(wal(pg_wal), folder / "nowhere", compress=False)
    (pg_wal / FIRST).unlink()
    with pytest.raises(ServerError, match=f"pg_wal/{FIRST}: No such file"):
        store(pg_wal / FIRST, folder, compress=False)


def test_an_archiver_that_outlived_its_postmaster_is_not_disturbed(folder: Path, pg_wal: Path) -> None:
    with (folder / f".{FIRST}.tmp").open("wb") as other:
        other.write(b"half of it")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OperationError, match="another process is copying"):
            store(wal(pg_wal), folder, compress=False)
        assert (folder / f".{FIRST}.tmp").read_bytes() == b"half of it"
    store(wal(pg_wal), folder, compress=False)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(folder: Path, pg_wal: Path) -> None:
    precious = pg_wal / "precious"
    precious.write_text("precious")
    (folder / f".{FIRST}.tmp").symlink_to(precious)
    with pytest.raises(ServerError):
        store(wal(pg_wal), folder, compress=False)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", TRICKS)
def test_only_names_of_wal_files_are_accepted(folder: Path, pg_wal: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is not the name of a WAL file|is not called"):
        archive.run(["store", f"pg_wal/{name}", name])
    with pytest.raises(UsageError, match="not the name of a WAL file"):
        restore(name, folder, pg_wal / "out")


def test_a_missing_file_is_not_an_error(folder: Path, pg_wal: Path) -> None:
    assert not restore(FIRST, folder, pg_wal / "out")
    assert names(pg_wal) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (FIRST, HALF_EMPTY[:500_000]),
        (FIRST, b""),
        (f"{FIRST}.gz", gzip.compress(HALF_EMPTY)[:-9]),
        (f"{FIRST}.gz", gzip.compress(HALF_EMPTY)[:100_000]),
        (f"{FIRST}.gz", gzip.compress(HALF_EMPTY[:500_000])),
        (f"{FIRST}.gz", HALF_EMPTY),
        (f"{FIRST}.gz", b""),
        (f"{FIRST}.gz", gzip.compress(HALF_EMPTY)[:-8] + bytes(8)),
    ],
)
def test_a_damaged_file_ends_the_recovery_and_not_the_archive(
    folder: Path, pg_wal: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    target = wal(pg_wal, "RECOVERYXLOG", b"before")
    with pytest.raises(OperationError, match="damaged"):
        restore(FIRST, folder, target)
    assert names(pg_wal) == ["RECOVERYXLOG"]
    assert target.read_bytes() == b"before"


def test_only_a_missing_file_looks_like_the_end_of_the_archive(
    folder: Path, pg_wal: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", folder)
    assert archive.run(["restore", FIRST, str(pg_wal / "out")]) == 1
    assert capsys.readouterr().err == ""
    for name, target in ((FIRST, pg_wal / "nowhere" / "out"), ("../x", pg_wal / "out")):
        store(wal(pg_wal), folder, compress=False)
        assert archive.run(["restore", name, str(target)]) == STOP
    monkeypatch.setattr(paths, "ARCHIVE", folder / "nowhere")
    assert archive.run(["restore", FIRST, str(pg_wal / "out")]) == STOP
    monkeypatch.setattr(paths, "ARCHIVE", folder)
    (folder / FIRST).write_bytes(b"half")
    assert archive.run(["restore", FIRST, str(pg_wal / "out")]) == STOP > 125
    assert f"{folder / FIRST} is damaged" in capsys.readouterr().err
    monkeypatch.setattr(archive, "restore", failing(errno.EIO))
    assert archive.run(["restore", FIRST, str(pg_wal / "out")]) == STOP


def test_the_programs_accept_the_arguments_of_postgresql(
    folder: Path, pg_wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", folder)
    monkeypatch.chdir(pg_wal.parent)
    wal(pg_wal)
    assert archive.run(["store", "--compress", f"pg_wal/{FIRST}", FIRST]) == 0
    assert names(folder) == [f"{FIRST}.gz"]
    assert archive.run(["restore", FIRST, "pg_wal/RECOVERYXLOG"]) == 0


@pytest.mark.parametrize("words", [[], ["store"], ["store", "--fast", "p", "f"], ["restore", "f"], ["remove", "p"]])
def test_other_arguments_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        archive.run(words)


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


def test_pruning_deletes_expendable_files_from_the_disk(folder: Path, pg_wal: Path) -> None:
    for number, name in enumerate([FIRST, "00000002.history", "000000010000000000000002", "000000010000000000000003"]):
        store(wal(pg_wal, name), folder, compress=bool(number % 2))
    for name in (f".{FIRST}.gz.tmp", "an-administrators.note", FIRST, "00000002.history.gz"):
        path = folder / name
        path.touch()
        os.utime(path, (1e9, 1e9))
    assert set(prune(folder, keep_hours=1)) == {FIRST, f".{FIRST}.gz.tmp"}
    assert names(folder) == [
        "000000010000000000000002", "000000010000000000000003.gz", "00000002.history.gz", "an-administrators.note",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../x", "0/3000028"])
def test_nothing_is_pruned_if_the_needed_file_is_unclear(folder: Path, pg_wal: Path, name: str) -> None:
    store(wal(pg_wal), folder, compress=False)
    os.utime(folder / FIRST, (1e9, 1e9))
    with pytest.raises(ClusterError):
        prune(folder, keep_hours=1, keep_from=name)
    assert names(folder) == [FIRST]


def test_an_archive_that_cannot_be_pruned_raises_an_error(folder: Path) -> None:
    with pytest.raises(ServerError, match="nowhere"):
        prune(folder / "nowhere", keep_hours=1)


def test_usage_reports_how_full_the_archive_is(folder: Path, pg_wal: Path) -> None:
    assert usage(folder / "nowhere") is None
    empty = usage(folder)
    assert empty is not None
    assert (empty.files, empty.bytes, empty.oldest, empty.newest) == (0, 0, "", "")
    last = "000000010000000000000002"
    for name in ("00000002.history", last, FIRST):
        store(wal(pg_wal, name, os.urandom(MEGABYTE)), folder, compress=False)
    found = usage(folder)
    assert found is not None
    assert (found.files, found.oldest, found.newest) == (3, FIRST, last)
    assert found.bytes >= 3 * MEGABYTE
    assert 0 < found.used <= 1


def test_the_archive_of_replaced_data_is_emptied_of_all_wal(folder: Path, pg_wal: Path) -> None:
    for name in NAMES:
        store(wal(pg_wal, name), folder, compress=False)
    (folder / "an-administrators.note").touch()
    archive.clear(folder)
    assert names(folder) == ["an-administrators.note"]


def test_the_keeper_prunes_at_its_start_and_every_ten_minutes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, str]] = []
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(archive, "prune", lambda _, keep_hours, keep_from: asked.append((keep_hours, keep_from)))
    keeper = archive.Keeper(folder)
    for now[0], number in ((1000.0, 1), (1002.0, 1), (1599.0, 1), (1600.0, 2), (1601.0, 2)):
        keeper.tend(keep_hours=24, keep_from=FIRST if number > 1 else "")
        assert len(asked) == number
    assert asked == [(24, ""), (24, FIRST)]


def test_a_keeper_does_not_retry_continuously_after_a_failure(folder: Path) -> None:
    keeper = archive.Keeper(folder / "nowhere")
    with pytest.raises(ServerError):
        keeper.tend(keep_hours=24)
    keeper.tend(keep_hours=24)
