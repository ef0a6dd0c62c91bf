"""Single WAL files: stored and restored, whatever the disk does."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from tests.unit.cluster.archives import FIRST, HALF_EMPTY, MEGABYTE, NAMES, TRICKS, failing, names, wal

from pgpool_cluster.ground.errors import OperationError, ServerError, UsageError
from pgpool_cluster.machine.wal import archive_command, wal_files
from pgpool_cluster.machine.wal.wal_files import restore, store


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [HALF_EMPTY, bytes(MEGABYTE), os.urandom(MEGABYTE)], ids=["half", "zeros", "full"])
def test_a_stored_file_is_restored_unchanged(
    archive_folder: Path, pg_wal: Path, name: str, compress: bool, content: bytes
) -> None:
    store(wal(pg_wal, name, content), archive_folder, compress=compress)
    assert names(archive_folder) == [f"{name}.gz" if compress else name]
    assert restore(name, archive_folder, pg_wal / "RECOVERYXLOG")
    assert (pg_wal / "RECOVERYXLOG").read_bytes() == content
    assert names(pg_wal) == sorted([name, "RECOVERYXLOG"])


@pytest.mark.parametrize("compress", [False, True])
def test_archived_wal_is_postgres_alone(archive_folder: Path, pg_wal: Path, compress: bool) -> None:
    store(wal(pg_wal), archive_folder, compress=compress)
    assert {path.stat().st_mode & 0o777 for path in archive_folder.iterdir()} == {0o600}


def test_a_file_switched_early_by_archive_timeout_takes_little_space(archive_folder: Path, pg_wal: Path) -> None:
    store(wal(pg_wal), archive_folder, compress=False)
    assert (archive_folder / FIRST).stat().st_blocks * 512 < MEGABYTE / 2


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_the_same_file_once_more_is_success_and_changes_nothing(
    archive_folder: Path, pg_wal: Path, compress: bool, again: bool
) -> None:
    store(wal(pg_wal), archive_folder, compress=compress)
    (there,) = archive_folder.iterdir()
    before = there.stat()
    store(wal(pg_wal), archive_folder, compress=again)
    assert list(archive_folder.iterdir()) == [there]
    assert (there.stat().st_ino, there.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "other", [HALF_EMPTY[:-1], HALF_EMPTY + b"x", b"", bytes([HALF_EMPTY[0] ^ 1]) + HALF_EMPTY[1:]]
)
def test_another_file_of_that_name_is_never_written_over(
    archive_folder: Path, pg_wal: Path, compress: bool, other: bytes
) -> None:
    store(wal(pg_wal), archive_folder, compress=compress)
    (there,) = archive_folder.iterdir()
    before = there.read_bytes()
    with pytest.raises(OperationError) as caught:
        store(wal(pg_wal, content=other), archive_folder, compress=compress)
    assert str(there) in caught.value.message
    assert str(pg_wal / FIRST) in caught.value.message
    assert (names(archive_folder), there.read_bytes()) == ([there.name], before)


def test_a_damaged_file_of_that_name_counts_as_another(archive_folder: Path, pg_wal: Path) -> None:
    (archive_folder / f"{FIRST}.gz").write_bytes(gzip.compress(HALF_EMPTY)[:1000])
    with pytest.raises(OperationError, match="differs"):
        store(wal(pg_wal), archive_folder, compress=True)


@pytest.mark.parametrize("compress", [False, True])
def test_a_partial_copy_left_by_a_crash_is_replaced(archive_folder: Path, pg_wal: Path, compress: bool) -> None:
    final = f"{FIRST}.gz" if compress else FIRST
    (archive_folder / f".{final}.tmp").write_bytes(os.urandom(2 * MEGABYTE))
    store(wal(pg_wal), archive_folder, compress=compress)
    assert names(archive_folder) == [final]
    assert restore(FIRST, archive_folder, pg_wal / "out")
    assert (pg_wal / "out").read_bytes() == HALF_EMPTY


def half_way(error: BaseException) -> Callable[[IO[bytes]], Iterator[bytes]]:
    def chunks(reader: IO[bytes]) -> Iterator[bytes]:
        yield reader.read(1 << 17)
        raise error

    return chunks


FAULTS: dict[str, tuple[object, str, Callable[[int], object]]] = {
    "copy": (wal_files, "_chunks", lambda number: half_way(OSError(number, os.strerror(number)))),
    "fsync": (os, "fsync", failing),
    "rename": (Path, "rename", failing),
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_if_the_disk_fails_no_file_is_left_and_one_line_says_why(
    tmp_path: Path, compress: bool, number: int, fault: tuple[object, str, Callable[[int], object]]
) -> None:
    archive_folder = tmp_path / "archive"
    archive_folder.mkdir()
    source = wal(tmp_path)
    where, name, fails = fault
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(where, name, fails(number))
        with pytest.raises(ServerError) as caught:
            store(source, archive_folder, compress=compress)
    assert caught.value.message == f"{archive_folder}: {os.strerror(number)}"
    assert names(archive_folder) == []
    store(source, archive_folder, compress=compress)
    assert restore(FIRST, archive_folder, tmp_path / "out")


def test_an_interrupted_copy_leaves_nothing_under_the_name(
    archive_folder: Path, pg_wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ended:
        ended.setattr(wal_files, "_chunks", half_way(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store(wal(pg_wal), archive_folder, compress=False)
    assert names(archive_folder) == []


def test_a_missing_folder_or_source_is_named(archive_folder: Path, pg_wal: Path) -> None:
    with pytest.raises(ServerError, match="nowhere"):
        store(wal(pg_wal), archive_folder / "nowhere", compress=False)
    (pg_wal / FIRST).unlink()
    with pytest.raises(ServerError, match=f"pg_wal/{FIRST}: No such file"):
        store(pg_wal / FIRST, archive_folder, compress=False)


def test_an_archiver_that_outlived_its_postmaster_is_not_disturbed(archive_folder: Path, pg_wal: Path) -> None:
    with (archive_folder / f".{FIRST}.tmp").open("wb") as other:
        other.write(b"half of it")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OperationError, match="another process is copying"):
            store(wal(pg_wal), archive_folder, compress=False)
        assert (archive_folder / f".{FIRST}.tmp").read_bytes() == b"half of it"
    store(wal(pg_wal), archive_folder, compress=False)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(archive_folder: Path, pg_wal: Path) -> None:
    precious = pg_wal / "precious"
    precious.write_text("precious")
    (archive_folder / f".{FIRST}.tmp").symlink_to(precious)
    with pytest.raises(ServerError):
        store(wal(pg_wal), archive_folder, compress=False)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("name", TRICKS)
def test_only_names_of_wal_files_are_accepted(archive_folder: Path, pg_wal: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is not the name of a WAL file|is not called"):
        archive_command.run(["store", f"pg_wal/{name}", name])
    with pytest.raises(UsageError, match="not the name of a WAL file"):
        restore(name, archive_folder, pg_wal / "out")


def test_a_missing_file_is_not_an_error(archive_folder: Path, pg_wal: Path) -> None:
    assert not restore(FIRST, archive_folder, pg_wal / "out")
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
    archive_folder: Path, pg_wal: Path, name: str, content: bytes
) -> None:
    (archive_folder / name).write_bytes(content)
    target = wal(pg_wal, "RECOVERYXLOG", b"before")
    with pytest.raises(OperationError, match="damaged"):
        restore(FIRST, archive_folder, target)
    assert names(pg_wal) == ["RECOVERYXLOG"]
    assert target.read_bytes() == b"before"
