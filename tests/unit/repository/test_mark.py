"""repository.json and the URLs in it: anything that apt could not read is refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.repository import mark

URL = "https://packages.example.org/pgpool"


@pytest.fixture(autouse=True)
def own() -> None:
    """No test of this module signs anything."""


def refusal(path: Path) -> UsageError:
    with pytest.raises(UsageError) as raised:
        mark.url_of(path)
    return raised.value


def test_the_url_of_a_repository_is_the_written_one(tmp_path: Path) -> None:
    (tmp_path / mark.NAME).write_text(mark.text(URL))
    assert mark.url_of(tmp_path) == URL


def test_a_folder_without_a_mark_is_no_repository(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.message == f"{tmp_path} is not a repository of this project"
    assert "publish" in error.hint


def test_a_mark_outside_the_repository_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / mark.NAME).write_text(mark.text(URL))
    (tmp_path / "repo" / mark.NAME).symlink_to(tmp_path / mark.NAME)
    error = refusal(tmp_path / "repo")
    assert error.message == f"{tmp_path / 'repo' / mark.NAME} points outside the repository"
    assert '{"format": 1, "url": "URL"}' in error.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"format": 1}', "[" * 100_000])
def test_a_damaged_mark_is_refused_with_its_contents(tmp_path: Path, text: str) -> None:
    (tmp_path / mark.NAME).write_text(text)
    error = refusal(tmp_path)
    assert error.message == f"{tmp_path / mark.NAME} is damaged"
    assert '{"format": 1, "url": "URL"}' in error.hint


def test_a_newer_format_needs_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / mark.NAME).write_text('{"format": 2, "url": "x"}')
    error = refusal(tmp_path)
    assert "a format that this version does not support" in error.message
    assert "git pull" in error.hint


def test_a_url_is_stored_without_its_last_slash() -> None:
    assert mark.address(f"{URL}/") == URL


@pytest.mark.parametrize("url", ["packages.example.org", "https://a b", "https://x/$(id)", "https://x/'", ""])
def test_a_url_that_apt_or_a_shell_would_split_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not a URL that apt accepts") as raised:
        mark.address(url)
    assert "%20" in raised.value.hint


def test_the_url_of_a_folder_is_a_file_url() -> None:
    assert mark.address_of(Path("/srv/my repo")) == "file:///srv/my%20repo"


@pytest.mark.parametrize("name", ["100%", "line\nfeed"])
def test_a_folder_name_that_apt_cannot_read_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="apt cannot read the folder") as raised:
        mark.address_of(Path("/srv") / name)
    assert "--url" in raised.value.hint
