"""Suites are signed again, or archived after the end of their release, and only those of our own key."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import gpg, renewing, suites
from pgpool_deb.repository.signing import Key
from pgpool_deb.repository.suites import Suite
from pgpool_deb.repository.tree import Repository

MOMENT = 1_800_000_000
TABLE = """
[packaging]
revision = 50
date = 2026-11-22
[release.bookworm]
number = 12
state = "archived"
postgresql = [15]
suites = ["bookworm"]
archive = "https://archive.example.org/debian"
[release.trixie]
number = 13
state = "supported"
postgresql = [17]
suites = ["trixie"]
"""


@pytest.fixture(autouse=True)
def own() -> None:
    """No test of this module runs gpg."""


@dataclass(frozen=True)
class NamedKey(Key):
    """A key whose signature is its name in front of the text."""

    def clearsigned(self, text: str, moment: int) -> str:
        return f"{self.public.decode()}\n{text}"

    def signature(self, text: str, moment: int) -> str:
        return self.public.decode()


OURS, ANOTHER = (NamedKey(None, name, {}, ()) for name in (b"ours", b"another"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose releases are bookworm, which is archived, and trixie."""
    (tmp_path / "releases.toml").write_text(TABLE)
    monkeypatch.setenv("PGPOOL_DEB_RELEASES", str(tmp_path / "releases.toml"))
    return Project(tmp_path)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with two living suites of bookworm, and one archived suite of trixie."""

    def verified(signed: bytes, keyring: bytes) -> str | None:
        signer, _, text = signed.decode().partition("\n")
        return text if signer == keyring.decode() else None

    monkeypatch.setattr(gpg, "verified", verified)
    monkeypatch.setattr(suites, "compressed", lambda text: gzip.compress(text.encode()))  # without a process for each
    path = tmp_path / "repo"
    for name, archived in (("bookworm", False), ("bookworm-testing", False), ("trixie", True)):
        suite = Suite(name, name.partition("-")[0], archived=archived)
        suites.write(path / "snapshot" / "one", suite, OURS, MOMENT)
    (path / "current").symlink_to("snapshot/one")
    return Repository(path, "file:///repo")


def test_every_suite_is_renewed_except_archived_ones(repository: Repository) -> None:
    assert [suite.name for suite in renewing.living(repository, OURS)] == ["bookworm", "bookworm-testing"]


def test_a_suite_of_another_key_is_not_renewed(repository: Repository) -> None:
    with pytest.raises(UsageError, match="bookworm/InRelease is not signed by this key") as raised:
        renewing.living(repository, ANOTHER)
    assert "--key" in raised.value.hint


def test_an_unpublished_repository_has_nothing_to_renew(tmp_path: Path) -> None:
    assert renewing.living(Repository(tmp_path, "file:///repo"), OURS) == []


def test_only_the_suites_of_the_named_release_are_marked_as_archived(repository: Repository) -> None:
    found = renewing.archived(repository, ["bookworm"], OURS)
    assert [(suite.name, suite.archived) for suite in found] == [("bookworm", True), ("bookworm-testing", True)]
    assert not any(one.archived for one in suites.summaries(repository.state) if one.release == "bookworm"), (
        "nothing is written yet"
    )


def test_a_release_without_a_suite_is_named(repository: Repository) -> None:
    with pytest.raises(UsageError) as raised:
        renewing.archived(repository, ["bookworm", "sid"], OURS)
    assert raised.value.message == f"{repository.path}: sid has no suite"
    assert raised.value.hint == f"ls {repository.path}/dists shows the suites"


def test_a_suite_of_another_key_is_not_archived(repository: Repository) -> None:
    with pytest.raises(UsageError, match="is not signed by this key"):
        renewing.archived(repository, ["bookworm"], ANOTHER)


def test_a_living_release_is_not_archived(project: Project) -> None:
    renewing.refuse_living(project, ["bookworm"])
    with pytest.raises(UsageError, match="trixie is supported, not archived") as raised:
        renewing.refuse_living(project, ["bookworm", "trixie"])
    assert raised.value.hint == 'set state = "archived" in [release.trixie] of packaging/releases.toml'


def test_a_reminder_names_each_ended_release_once_and_its_command(project: Project, repository: Repository) -> None:
    lines: list[str] = []
    renewing.remind(project, repository, lines.append)
    assert lines == [
        "warning: bookworm has reached end of life, and its suites are not archived",
        f"hint: ./invoke publish --to {repository.path} --archive bookworm",
    ]
