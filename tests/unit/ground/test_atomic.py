"""Files are replaced completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_deb.ground import atomic


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write(path, "old\n")
    atomic.write(path, "new ü\n")
    assert path.read_text(encoding="utf-8") == "new ü\n"
    assert list(tmp_path.iterdir()) == [path]


def fail_midway(path: Path, error: type[BaseException]) -> None:
    with atomic.replacing(path) as stream:
        stream.write(b"ne")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_any_exception_leaves_the_old_file_and_no_partial_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    atomic.write(path, "old")
    with pytest.raises(error):
        fail_midway(path, error)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.write(tmp_path / "missing" / "file", "text")
