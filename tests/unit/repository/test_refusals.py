"""Publish refuses bad input with one line and a hint, and does not change the repository."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher, tree

from pgpool_deb.ground.errors import ToolkitError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.small_packages import upload
from pgpool_deb.upstream.download import sha256_of

# -- bad packages and damaged repositories -----------------------------------------------------------------------------


def foreign(checkout: Project, _: Path) -> None:
    upload(checkout.dist / "trixie", "1.0+deb13+1", source="nginx")


def of_another_release(checkout: Project, _: Path) -> None:
    upload(checkout.dist / "trixie", "4.7.3-50+deb12+1")


def damaged(checkout: Project, _: Path) -> None:
    path = upload(checkout.dist / "trixie", V2).with_name(f"pgpool2_{V2}_amd64.deb")
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def cut_short(checkout: Project, _: Path) -> None:
    path = upload(checkout.dist / "trixie", V2).with_name(f"pgpool2_{V2}_amd64.deb")
    path.write_bytes(path.read_bytes()[:-1])


def missing(checkout: Project, _: Path) -> None:
    upload(checkout.dist / "trixie", V2).with_name(f"pgpool2_{V2}.dsc").unlink()


def older(checkout: Project, _: Path) -> None:
    upload(checkout.dist / "trixie", "4.6.1-50+deb13+1")


def other_bytes(checkout: Project, _: Path) -> None:
    shutil.rmtree(checkout.dist / "trixie")
    upload(checkout.dist / "trixie", V1, binaries=("pgpool2", "libpgpool-dev"), text="other\n")


def outside(checkout: Project, _: Path) -> None:
    path = upload(checkout.dist / "trixie", V2)
    path.write_text(path.read_text().replace(f" pgpool2_{V2}.dsc", " ../../secret"))


def pool_elsewhere(_: Project, repo: Path) -> None:
    (repo / "pool").rename(repo.parent / "elsewhere")
    (repo / "pool").symlink_to(repo.parent / "elsewhere")


def pointer_elsewhere(_: Project, repo: Path) -> None:
    (repo / "current").unlink()
    (repo / "current").symlink_to("/tmp")  # noqa: S108


def changed_index(_: Project, repo: Path) -> None:
    path = repo / "dists/trixie-testing/main/binary-amd64/Packages.gz"
    path.write_bytes(path.read_bytes() + b"x")


def proved_by_hand(_: Project, repo: Path) -> None:
    path = repo / "dists/trixie-testing/suite.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unproved": []}))


def unsigned(_: Project, repo: Path) -> None:
    path = repo / "dists/trixie-testing/InRelease"
    path.write_text(path.read_text().replace("Origin: pgpool-deb", "Origin: someone-else"))


def no_mark(_: Project, repo: Path) -> None:
    (repo / "repository.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (foreign, "nginx is not a source package of this project"),
        (of_another_release, "is not for trixie"),
        (damaged, "is damaged"),
        (cut_short, "is missing or has the wrong size"),
        (missing, "is missing or has the wrong size"),
        (older, "is older than 4.7.2-50.deb13.1 in trixie-testing"),
        (other_bytes, "is already published with different contents"),
        (outside, "which is not a plain file name"),
        (pool_elsewhere, "pool is a symbolic link"),
        (pointer_elsewhere, "points outside the repository"),
        (changed_index, "Packages.gz is damaged"),
        (proved_by_hand, "suite.json is damaged"),
        (unsigned, "is not signed by this key"),
        (no_mark, "is damaged"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_input_is_refused_in_one_line_and_changes_nothing(
    published: Publisher, checkout: Project, tmp_path: Path, harm: Callable[[Project, Path], None], message: str
) -> None:
    published()
    harm(checkout, tmp_path / "repo")
    before = tree(tmp_path / "repo")
    with pytest.raises(ToolkitError, match=message) as raised:
        published()
    assert len(str(raised.value).splitlines()) == 2
    assert tree(tmp_path / "repo") == before


def test_a_file_that_no_state_names_is_replaced(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    """A killed publish left it, and the package has since been rebuilt."""
    published()
    upload(checkout.dist / "trixie", V2)
    left = tmp_path / "repo/pool/main/p/pgpool2" / f"pgpool2_{V2}_amd64.deb"
    left.write_bytes(b"of another build")
    published()
    assert sha256_of(left) == sha256_of(checkout.dist / "trixie" / left.name)


def test_the_first_record_of_a_build_stays(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    place = tmp_path / "repo/pool/main/p/pgpool2" / f"pgpool2_{V1}_amd64.changes"
    before = place.read_bytes()
    changes = checkout.dist / "trixie" / place.name
    changes.write_text(f"Date: today\n{changes.read_text()}")
    published()
    assert place.read_bytes() == before


def test_a_folder_that_holds_other_files_is_refused(published: Publisher, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "letters").write_text("dear")
    with pytest.raises(UsageError, match="contains files that are not of a repository"):
        published()
    assert [path.name for path in (tmp_path / "repo").iterdir()] == ["letters"]


def test_a_clock_that_is_behind_is_refused(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST - 1))
    request = publish.PublishRequest(tmp_path / "repo", unproved=True, install=False)
    with pytest.raises(UsageError, match="is not later than the current state"):
        publish.run(checkout, request, print)


def test_a_missing_key_is_reported(published: Publisher) -> None:
    with pytest.raises(UsageError, match="no secret key 0123456789ABCDEF"):
        published(key="0123456789ABCDEF")
    with pytest.raises(UsageError, match="neither a fingerprint nor a file"):
        published(key="/no/such/file")


def test_two_publishes_at_once_wait_for_each_other(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    repository, lines = Repository.open(tmp_path / "repo"), list[str]()
    request = publish.PublishRequest(tmp_path / "repo", unproved=True, install=False)
    with repository.locked(lines.append):
        other = threading.Thread(target=publish.run, args=(checkout, request, lines.append))
        other.start()
        end = time.monotonic() + 60
        while not any(line.startswith("waiting for the run with process id") for line in lines):
            assert time.monotonic() < end, lines
            time.sleep(0.05)
        assert len(repository.states) == 1
    other.join(120)
    assert len(repository.states) == 2
