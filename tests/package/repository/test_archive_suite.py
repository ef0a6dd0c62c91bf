"""A release past its end of life: its suites stay, signed without Valid-Until, and accept no packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher, tree, versions
from tests.unit.repository.keys import secret_key

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, keyring, promote, prune, publish, stanzas
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.small_packages import upload

DAY = 86400
SUITES = ("trixie", "trixie-testing")


def past_its_end(checkout: Project, name: str = "trixie") -> None:
    head, row, rest = checkout.releases.read_text().partition(f"[release.{name}]\n")
    checkout.releases.write_text(head + row + rest.replace('"supported"', '"archived"', 1))


@pytest.fixture
def archived(published: Publisher, checkout: Project, tmp_path: Path) -> Path:
    """A repository whose trixie is archived in testing and stable, and whose bookworm is still supported."""
    upload(checkout.dist / "bookworm", V1.replace("deb13", "deb12"))
    published()
    published(suite="stable")
    past_its_end(checkout)
    published(archive=("trixie",))
    return tmp_path / "repo"


def release(repo: Path, suite: str) -> str:
    return (repo / "dists" / suite / "Release").read_text()


def test_both_suites_stay_and_never_expire(archived: Path, tmp_path: Path) -> None:
    for suite in SUITES:
        assert stanzas.valid_until(release(archived, suite)) is None
        assert "Description: pgpool-II for Debian trixie, archived: the release has reached end of life" in release(
            archived, suite
        )
        assert V1 in Apt.new(tmp_path / "apt", archived, suite=suite).versions("pgpool2")
    assert stanzas.valid_until(release(archived, "bookworm"))


def test_an_existing_client_is_unaffected_by_archiving(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    """Its sources stay the same, and its apt prints no warning."""
    published()
    apt = Apt.new(tmp_path / "apt", tmp_path / "repo")
    assert apt.versions("pgpool2") == {V1}
    past_its_end(checkout)
    published(archive=("trixie",))
    assert apt.versions("pgpool2") == {V1}


def test_the_page_lists_archived_suites_under_archive(archived: Path) -> None:
    page = (archived / "index.html").read_text()
    living, heading, rest = page.partition('<h2 id="archive">Archive</h2>')
    assert heading
    assert '<h2 id="bookworm">' in living
    assert 'id="trixie' not in living
    assert '<h3 id="trixie">' in rest
    assert '<h3 id="trixie-testing">' in rest
    assert page.count('id="archive"') == 1


def test_an_archived_suite_accepts_no_packages(archived: Path, published: Publisher, checkout: Project) -> None:
    upload(checkout.dist / "trixie", V2)
    upload(checkout.dist / "bookworm", V2.replace("deb13", "deb12"))
    before = tree(archived)
    for suite in ("testing", "stable"):
        with pytest.raises(UsageError, match=r"is archived: .*\nhint: name other releases with --release"):
            published(suite=suite)
    assert tree(archived) == before
    published(releases=("bookworm",))
    assert tree(archived) != before


def test_an_archived_release_gets_no_other_suite(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    past_its_end(checkout)
    published(archive=("trixie",))
    with pytest.raises(UsageError, match="trixie-testing is archived"):
        published(suite="stable")
    assert [path.name for path in (tmp_path / "repo/dists").iterdir()] == ["trixie-testing"]


def test_promotion_skips_an_archived_release_and_refuses_it_by_name(
    archived: Path, published: Publisher, checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 900))
    with pytest.raises(UsageError, match="trixie is archived"):
        promote.run(checkout, promote.PromoteRequest(archived, ("trixie",), install=False), print)
    with pytest.raises(UsageError, match=r"bookworm-testing: pgpool2 .* is not proved"):
        promote.run(checkout, promote.PromoteRequest(archived, install=False), print)


def test_a_renewal_does_not_sign_an_archived_suite(archived: Path, published: Publisher) -> None:
    before = (archived / "dists/trixie/InRelease").read_bytes()
    lines = published(renew=True)
    assert lines == ["2 suites re-signed, valid for 30 days"]
    assert (archived / "dists/trixie/InRelease").read_bytes() == before


def test_a_publish_a_year_later_does_not_change_an_archived_suite(
    archived: Path, checkout: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That publish signs the other suites again."""
    first, old = ((archived / "dists" / name / "InRelease").read_bytes() for name in ("trixie", "bookworm"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 365 * DAY))
    request = publish.PublishRequest(archived, releases=("bookworm",), unproved=True, install=False)
    publish.run(checkout, request, print)
    assert (archived / "dists/trixie/InRelease").read_bytes() == first
    assert (archived / "dists/bookworm/InRelease").read_bytes() != old


def test_check_and_prune_accept_an_archived_suite(archived: Path, published: Publisher) -> None:
    published(renew=True)
    lines: list[str] = []
    prune.run(prune.PruneRequest(archived, older=1, yes=True), lines.append)
    assert len(Repository.open(archived).states) == 1
    assert ("pgpool2", V1) in versions(archived, "trixie")
    lines.clear()
    assert check.run(str(archived), lines.append, install=False) is ExitStatus.GOOD, lines
    assert not [line for line in lines if line.startswith("warning")]


def test_a_suite_without_valid_until_that_is_not_archived_is_a_fault(
    published: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stanzas, "valid_until", lambda _: None)
    published()
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is ExitStatus.FAILED
    assert lines[0].startswith("fault: trixie-testing: Release has no Valid-Until")


def test_another_key_also_signs_an_archived_suite_and_is_offered_in_it(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """Otherwise, its clients could not read it after the old key has expired."""
    upload(checkout.dist / "bookworm", V1.replace("deb13", "deb12"))
    old, new = secret_key(tmp_path, "old"), secret_key(tmp_path, "new")
    published(key=str(old))
    past_its_end(checkout)
    published(key=str(old), archive=("trixie",))
    published(key=f"{old},{new}", releases=("bookworm",))
    published(key=str(new), releases=("bookworm",))
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is ExitStatus.GOOD, lines
    assert stanzas.valid_until(release(tmp_path / "repo", "trixie-testing")) is None
    found = [name for name, _ in versions(tmp_path / "repo", "trixie-testing") if name == keyring.NAME]
    assert len(found) == 3


def test_only_releases_past_their_end_are_archived(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    before = tree(tmp_path / "repo")
    with pytest.raises(UsageError, match=r"trixie is supported, not archived\nhint: .*releases.toml"):
        published(archive=("trixie",))
    past_its_end(checkout, "bookworm")
    with pytest.raises(UsageError, match="bookworm has no suite"):
        published(archive=("bookworm",))
    with pytest.raises(UsageError, match="--archive cannot be combined"):
        published(archive=("bookworm",), renew=True)
    assert tree(tmp_path / "repo") == before


def test_publish_reminds_of_releases_past_their_end(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    past_its_end(checkout)
    reminder = [
        "warning: trixie has reached end of life, and its suites are not archived",
        f"hint: ./invoke publish --to {tmp_path / 'repo'} --archive trixie",
    ]
    assert published()[-2:] == reminder
    assert published(renew=True)[-2:] == reminder
    published(archive=("trixie",))
    assert published(renew=True) == ["0 suites re-signed, valid for 30 days"]
