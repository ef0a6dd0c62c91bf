"""Fixtures: a checkout with small packages in its dist/, a signing key for the session, and a function to publish."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.repository.tampering import OUTSIDE

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish, signing, suites
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs import matrix
from pgpool_deb.runs.small_packages import upload
from pgpool_deb.upstream.download import sha256_of

FIRST = (int(time.time()) // 3600 - 48) * 3600
"""The time of the first state, two days ago; a full hour, as pytest may import this module again a second later."""
V1, V2 = "4.7.2-50+deb13+1", "4.7.2-51+deb13+1"
Publisher = Callable[..., list[str]]


@pytest.fixture(scope="session")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder with the key, which is created before the first state."""
    place = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(place))
        with signing.key(None, FIRST - 1, print):
            return place


@pytest.fixture(autouse=True)
def own(data_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_DATA_HOME", str(data_home))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    yield
    subprocess.run(
        ["gpgconf", "--homedir", str(data_home / "pgpool-deb/archive-key/gnupg"), "--kill", "all"], check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """A checkout with the real table of releases and its own dist/, with packages of trixie."""
    shutil.copytree(Path(__file__).parents[3] / "packaging", tmp_path / "checkout" / "packaging",
                    ignore=lambda folder, names: [name for name in names if not name.endswith(".toml")])  # fmt: skip
    made = Project(tmp_path / "checkout")
    upload(made.dist / "trixie", V1, binaries=("pgpool2", "libpgpool-dev"))
    upload(made.dist / "trixie", "0.2.0+deb13+1", source="pgpool2-cluster")
    return made


@pytest.fixture
def published(checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    """A function that publishes the packages of dist/, by default unproved, and returns the reported lines."""
    count = iter(range(1000))

    def run(**options: object) -> list[str]:
        lines: list[str] = []
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + next(count)))
        given = {"to": tmp_path / "repo", "unproved": True, "install": False, **options}
        request = publish.PublishRequest(**given)  # type: ignore[arg-type]
        assert publish.run(checkout, request, lines.append) is ExitStatus.GOOD
        return lines

    return run


def proved(checkout: Project, *names: str) -> None:
    """Write a matrix report that proves trixie's packages in dist/, or only the files of these names."""
    files = {
        path.name: sha256_of(path) for path in (checkout.dist / "trixie").iterdir() if not names or path.name in names
    }
    stages = [{"stage": stage, "state": "passed"} for stage in matrix.PROOF]
    (checkout.dist / "report").mkdir(exist_ok=True)
    report = {"cells": [{"release": "trixie", "cell": "trixie-amd64-4.7.2", "stages": stages, "files": files}]}
    (checkout.dist / "report" / "report.json").write_text(json.dumps(report))


@pytest.fixture
def repo(published: Publisher, checkout: Project, tmp_path: Path) -> Path:
    """A repository whose packages are proved, with a newer version in dist/."""
    published()
    proved(checkout)
    published(unproved=False)
    upload(checkout.dist / "trixie", V2)
    (tmp_path / OUTSIDE).mkdir()
    (tmp_path / OUTSIDE / "letter").write_text("dear")
    return tmp_path / "repo"


def tree(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files of a tree, and the targets of all links, by their paths."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink()).encode()
        elif path.is_file() and path.name != ".lock":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def versions(repo: Path, suite: str) -> list[tuple[str, str]]:
    """Return the packages of a suite of trixie, with their versions."""
    state = Repository.open(repo).state
    return [(one.package, one.version) for one in suites.read(state, suite, "trixie").packages]
