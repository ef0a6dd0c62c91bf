"""Clocks of a server and of a repository that differ: apt accepts the state, or refuses it with a reason.

apt compares the times in a Release file with its clock. A state from tomorrow stands for a clock that is a day behind,
and one from 31 days ago for a clock that is a day past Valid-Until.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.built import Built
from tests.install.repositories import OFFLINE, UPDATE, URL, Client, complaints, lines, pasted
from tests.unit.repository.keys import gnupg, output

from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import State
from pgpool_deb.repository import publish, suites
from pgpool_deb.repository.tree import Repository

DAY = 86400
Published = Callable[..., Repository]


@pytest.fixture
def published(project: Project, packages: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Publishes the packages with a time so many seconds ago, signed with a key that is older than all of them."""
    with gnupg(tmp_path / "gnupg", int(time.time()) - 400 * DAY) as command:
        output(*command, "--quick-generate-key", "archive", "ed25519", "sign", "never")
        (tmp_path / "key.asc").write_bytes(output(*command, "--armor", "--export-secret-keys"))

    def run(age: int, **options: object) -> Repository:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(time.time()) - age))
        words = {"suite": "stable", "releases": (packages.release.name,), "url": URL, "unproved": True, **options}
        request = publish.PublishRequest(tmp_path / "repository", key=str(tmp_path / "key.asc"), **words)  # type: ignore[arg-type]
        publish.run(project, request, print)
        return Repository.open(tmp_path / "repository")

    return run


def test_a_clock_that_is_a_day_ahead_is_accepted(client: Client, packages: Built, published: Published) -> None:
    repository = published(DAY)
    system = client(repository)
    assert complaints(pasted(system, repository, packages.release.name)) == []


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        pytest.param(-DAY, "is not valid yet|(?i:not live until)", id="a day behind"),
        pytest.param((suites.VALID_DAYS + 1) * DAY, "expired|is not valid anymore", id="a day past the end"),
    ],
)
def test_a_wrong_clock_is_refused_with_the_reason(
    client: Client, packages: Built, published: Published, age: int, reason: str
) -> None:
    repository = published(age)
    system = client(repository)
    *setup, _ = lines(repository, packages.release.name)
    answer = system.attempt("\n".join([OFFLINE, *setup, f"{UPDATE} 2>&1"]))
    assert answer.status != 0, answer.output
    assert re.search(reason, answer.output), answer.output
    assert system.run("apt-cache policy pgpool2 | grep -F /srv/repository || true") == ""


@pytest.fixture
def past_its_end(
    project: Project, packages: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Makes the table of releases say that the release has reached its end of life."""

    def change() -> None:
        table, row = project.releases.read_text(encoding="utf-8"), f"[release.{packages.release.name}]\n"
        head, rest = table.split(row)
        archived = rest.replace(f'state = "{packages.release.state}"', f'state = "{State.ARCHIVED}"', 1)
        (tmp_path / "releases.toml").write_text(f"{head}{row}{archived}", encoding="utf-8")
        monkeypatch.setenv("PGPOOL_DEB_RELEASES", str(tmp_path / "releases.toml"))

    return change


def test_a_suite_past_its_end_of_life_is_accepted_after_a_year(
    client: Client, packages: Built, published: Published, past_its_end: Callable[[], None]
) -> None:
    suite = packages.release.name
    published(390 * DAY)
    past_its_end()
    repository = published(389 * DAY, releases=(), archive=(suite,))
    system = client(repository)
    assert complaints(pasted(system, repository, suite)) == []
    assert packages.debian_version in system.run("apt-cache policy pgpool2")
