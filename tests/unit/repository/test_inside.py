"""Files of a repository are read without following a link out of it, and an unreadable one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import MachineError
from pgpool_deb.repository import inside
from pgpool_deb.repository.inside import Lack


@pytest.fixture(autouse=True)
def own() -> None:
    """No test of this module signs anything."""


def test_a_loop_of_links_is_no_file_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert inside.read(tmp_path, "a") is Lack.IRREGULAR
    assert inside.names(tmp_path, "a") == []


def test_a_loop_of_links_is_no_file_and_no_folder_since_python_3_13(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, resolve() returns a path in the loop, and its use fails."""
    (tmp_path / "a").symlink_to("a")
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    assert inside.read(tmp_path, "a") is Lack.IRREGULAR
    assert inside.names(tmp_path, "a") == []


def test_a_folder_outside_the_repository_has_no_names(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "letter").write_text("dear")
    assert inside.names(tmp_path / "repo", "..") == []
    assert inside.read(tmp_path / "repo", "../letter") is Lack.OUTSIDE


def test_a_path_below_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert inside.read(tmp_path, "file/below") is Lack.MISSING


@pytest.mark.parametrize(
    ("blocked", "use", "name"),
    [("stat", inside.read, "file"), ("read_bytes", inside.read, "file"), ("iterdir", inside.names, "dists")],
)
def test_a_path_that_this_user_may_not_read_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str, use: Callable[[Path, str], object], name: str
) -> None:
    (tmp_path / "repo" / "dists").mkdir(parents=True)
    (tmp_path / "repo" / "file").write_text("")
    known = getattr(Path, blocked)

    def refused(path: Path, *args: object, **options: object) -> object:
        if path.is_relative_to(tmp_path / "repo"):
            raise PermissionError(13, "Permission denied", str(path))
        return known(path, *args, **options)

    monkeypatch.setattr(Path, blocked, refused)
    with pytest.raises(MachineError) as raised:
        use(tmp_path / "repo", name)
    monkeypatch.undo()
    assert raised.value.message == f"{tmp_path / 'repo' / name}: Permission denied"
    assert "read permission" in raised.value.hint
