"""archive_command and restore_command, as PostgreSQL starts them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.archives import FIRST, failing, names, wal

from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import UsageError
from pgpool_cluster.machine.wal import archive_command
from pgpool_cluster.machine.wal.archive_command import STOP
from pgpool_cluster.machine.wal.wal_files import store


def test_only_a_missing_file_looks_like_the_end_of_the_archive(
    archive_folder: Path, pg_wal: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", archive_folder)
    assert archive_command.run(["restore", FIRST, str(pg_wal / "out")]) == 1
    assert capsys.readouterr().err == ""
    for name, target in ((FIRST, pg_wal / "nowhere" / "out"), ("../x", pg_wal / "out")):
        store(wal(pg_wal), archive_folder, compress=False)
        assert archive_command.run(["restore", name, str(target)]) == STOP
    monkeypatch.setattr(paths, "ARCHIVE", archive_folder / "nowhere")
    assert archive_command.run(["restore", FIRST, str(pg_wal / "out")]) == STOP
    monkeypatch.setattr(paths, "ARCHIVE", archive_folder)
    (archive_folder / FIRST).write_bytes(b"half")
    assert archive_command.run(["restore", FIRST, str(pg_wal / "out")]) == STOP > 125
    assert f"{archive_folder / FIRST} is damaged" in capsys.readouterr().err
    monkeypatch.setattr(archive_command, "restore", failing(errno.EIO))
    assert archive_command.run(["restore", FIRST, str(pg_wal / "out")]) == STOP


def test_the_programs_accept_the_arguments_of_postgresql(
    archive_folder: Path, pg_wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ARCHIVE", archive_folder)
    monkeypatch.chdir(pg_wal.parent)
    wal(pg_wal)
    assert archive_command.run(["store", "--compress", f"pg_wal/{FIRST}", FIRST]) == 0
    assert names(archive_folder) == [f"{FIRST}.gz"]
    assert archive_command.run(["restore", FIRST, "pg_wal/RECOVERYXLOG"]) == 0


@pytest.mark.parametrize("words", [[], ["store"], ["store", "--fast", "p", "f"], ["restore", "f"], ["remove", "p"]])
def test_other_arguments_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        archive_command.run(words)
