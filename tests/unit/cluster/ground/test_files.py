"""Files are whole or missing; neither leftovers of a crash nor concurrent writers block a write."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgpool_cluster.ground import files
from pgpool_cluster.machine.record import Record


def test_leftovers_of_a_power_cut_do_not_block_a_new_term(tmp_path: Path) -> None:
    """After a reboot, the agent may get the same process id."""
    record = tmp_path / "record.json"
    (tmp_path / f".record.json.{os.getpid()}.partial").write_text("half")
    for term in (1, 2):
        Record(term=term).save(record)
    assert Record.load(record).term == 2


def test_concurrent_writes_of_the_same_file_all_succeed(tmp_path: Path) -> None:
    target, together = tmp_path / "users.json", threading.Barrier(16)

    def write(number: int) -> None:
        together.wait()
        files.write(target, str(number).encode() * 1000)

    with ThreadPoolExecutor(max_workers=16) as workers:
        list(workers.map(write, range(16)))
    assert target.read_bytes() in {str(number).encode() * 1000 for number in range(16)}
    assert [path.name for path in tmp_path.iterdir()] == ["users.json"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_only_unfinished_files_are_swept(tmp_path: Path) -> None:
    old = tmp_path / ".record.json.17.partial"
    kept = [tmp_path / ".users.json.abc.partial", tmp_path / "record.json", tmp_path / "a.partial"]
    for path in (old, *kept):
        path.write_text("half")
    for path in (old, *kept[1:]):
        os.utime(path, (1, 1))
    files.sweep(tmp_path)
    assert not old.exists()
    assert all(path.exists() for path in kept)
    files.sweep(tmp_path / "missing")
