"""Publish small packages: the files of the tree, proofs, promotion, prune, and publishes from a pipeline."""

from __future__ import annotations

import html
import json
import subprocess
from pathlib import Path

import pytest
from tests.published import of_the_how_to
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher, proved, tree, versions

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, gpg, keyring, promote, prune, publish, signing, stanzas, suites
from pgpool_deb.repository.tree import Repository
from pgpool_deb.runs.small_packages import deb, upload
from pgpool_deb.upstream.download import sha256_of

HERE = Project(Path(__file__).parents[3])

# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_has_the_pin_of_the_how_to(published: Publisher, tmp_path: Path) -> None:
    published()
    page = html.unescape((tmp_path / "repo" / "index.html").read_text())
    here, _ = of_the_how_to(HERE, "/etc/apt/preferences.d/pgpool")
    assert f"# /etc/apt/preferences.d/pgpool\n{here}" in page


# -- the files of the tree ---------------------------------------------------------------------------------------------


def test_every_file_that_a_changes_names_is_published_and_checked(published: Publisher, tmp_path: Path) -> None:
    reported = published()
    assert reported[-1].startswith("trixie-testing: 4 packages, 2 sources")
    lines: list[str] = []
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is ExitStatus.GOOD, lines
    names = {path.name for path in (tmp_path / "repo" / "pool").rglob("*") if path.is_file()}
    assert {
        f"pgpool2_{V1}_amd64.deb",
        f"pgpool2_{V1}.dsc",
        f"pgpool2_{V1}_amd64.buildinfo",
        f"pgpool2_{V1}_amd64.changes",
    } <= names


def test_a_signed_provenance_statement_is_beside_the_packages(
    published: Publisher, checkout: Project, data_home: Path, tmp_path: Path
) -> None:
    published()
    folder = tmp_path / "repo/pool/main/p/pgpool2"
    path = folder / f"pgpool2_{V1}_amd64.intoto.json"
    statement = json.loads(path.read_text())
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    for subject in statement["subject"]:
        assert subject["digest"]["sha256"] == sha256_of(folder / subject["name"])
    made_from = {one.get("name"): one for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert {f"pgpool2_{V1}.dsc", f"pgpool2_{V1}.tar.xz", "debian/patches/one.patch"} <= set(made_from)
    keyring_file = tmp_path / "repo/keyring" / f"{keyring.NAME}.gpg"
    subprocess.run(["gpgv", "--keyring", str(keyring_file), f"{path}.asc", str(path)], check=True, capture_output=True)


def test_the_keyring_package_contains_its_licence(published: Publisher, tmp_path: Path) -> None:
    published()
    (package,) = (tmp_path / "repo/pool/main/p" / keyring.NAME).glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "out"], check=True)
    assert (tmp_path / "out/usr/share/doc" / keyring.NAME / "copyright").read_bytes() == keyring.LICENSE.read_bytes()


def test_the_same_packages_key_and_time_give_the_same_tree(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(url="http://example.org/pgpool")
    first = tree(tmp_path / "repo")
    (tmp_path / "repo").rename(tmp_path / "before")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST))
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    request = publish.PublishRequest(tmp_path / "repo", url="http://example.org/pgpool", unproved=True, install=False)
    publish.run(checkout, request, print)
    assert tree(tmp_path / "repo") == first


def test_every_version_stays_and_every_state_stays_readable(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    published()
    upload(checkout.dist / "trixie", V2)
    published()
    assert {("pgpool2", V1), ("pgpool2", V2)} <= set(versions(tmp_path / "repo", "trixie-testing"))
    old, new = Repository.open(tmp_path / "repo").states
    assert ("pgpool2", V2) not in {
        (one.package, one.version) for one in suites.read(old, "trixie-testing", "trixie").packages
    }
    assert (old / "pool" / "main/p/pgpool2" / f"pgpool2_{V1}_amd64.deb").is_file()
    assert new == Repository.open(tmp_path / "repo").state


def test_indexes_of_the_previous_state_stay_available_by_hash(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    published()
    (before,) = (tmp_path / "repo/dists/trixie-testing/main/binary-amd64/by-hash/SHA256").iterdir()
    upload(checkout.dist / "trixie", V2)
    published()
    names = [path.name for path in (tmp_path / "repo/dists/trixie-testing/main/binary-amd64/by-hash/SHA256").iterdir()]
    assert before.name in names
    assert len(names) == 2


def test_an_unchanged_suite_is_a_hard_link(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    upload(checkout.dist / "bookworm", V1.replace("deb13", "deb12"))
    published(releases=("bookworm",))
    old, new = (state / "dists/trixie-testing/InRelease" for state in Repository.open(tmp_path / "repo").states)
    assert old.samefile(new)


def test_a_renewal_publishes_nothing_and_signs_everything_again(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    published()
    before = stanzas.valid_until((tmp_path / "repo/dists/trixie-testing/Release").read_text())
    upload(checkout.dist / "trixie", V2)
    published(renew=True)
    assert stanzas.valid_until((tmp_path / "repo/dists/trixie-testing/Release").read_text()) == (before or 0) + 1
    assert ("pgpool2", V2) not in versions(tmp_path / "repo", "trixie-testing")


# -- proofs ------------------------------------------------------------------------------------------------------------


def test_unproved_packages_are_refused_or_named_in_release(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"no matrix report was found\nhint: prove it with ./invoke matrix --release trixie"
    ):
        published(unproved=False)
    assert not (tmp_path / "repo").exists()
    published()
    release = (tmp_path / "repo/dists/trixie-testing/Release").read_text()
    assert f"not proved: pgpool2 {V1}, pgpool2-cluster 0.2.0+deb13+1" in release
    proved(checkout)
    published(unproved=False)
    assert "not proved" not in (tmp_path / "repo/dists/trixie-testing/Release").read_text()


def test_the_description_of_a_thousand_unproved_packages_survives_signing() -> None:
    titles = [f"pgpool2 4.7.{number}-50+deb13+1" for number in range(1000)]
    description = stanzas.described("trixie", "trixie-testing", titles)
    assert "4.7.99-50+deb13+1 and 900 more" in description
    text = stanzas.ReleaseFields("trixie-testing", description, ("amd64",), FIRST, None).text({})
    with signing.key(None, FIRST, print) as key:
        assert gpg.verified(key.clearsigned(text, FIRST).encode(), key.public) == text


def test_a_proof_covers_exact_bytes_and_every_stage(published: Publisher, checkout: Project) -> None:
    proved(checkout, f"pgpool2_{V1}_amd64.deb")
    with pytest.raises(UsageError, match="the last matrix tested other builds of it"):
        published(unproved=False)
    proved(checkout)
    report = checkout.dist / "report" / "report.json"
    results = json.loads(report.read_text())
    report.write_text(json.dumps({"cells": [{**results["cells"][0], "stages": results["cells"][0]["stages"][:1]}]}))
    with pytest.raises(UsageError, match="quality not run in the last matrix"):
        published(unproved=False)
    results["cells"][0]["stages"][1]["state"] = "failed"
    report.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="quality failed"):
        published(unproved=False)


def test_promotion_copies_proved_packages_byte_for_byte(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 900))
    with pytest.raises(UsageError, match="is not proved"):
        promote.run(checkout, promote.PromoteRequest(tmp_path / "repo", install=False), print)
    proved(checkout)
    published(unproved=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 900))
    assert promote.run(checkout, promote.PromoteRequest(tmp_path / "repo", install=False), print) is ExitStatus.GOOD
    stable, testing = (
        [one for one in versions(tmp_path / "repo", suite) if one[0] != keyring.NAME]
        for suite in ("trixie", "trixie-testing")
    )
    assert stable == testing
    ((_, own),) = (one for one in versions(tmp_path / "repo", "trixie") if one[0] == keyring.NAME)
    assert not own.endswith("~testing")
    assert Repository.open(tmp_path / "repo").url == f"file://{tmp_path / 'repo'}"


# -- prune -------------------------------------------------------------------------------------------------------------


def test_prune_reports_and_removes_only_files_that_no_state_names(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    published()
    upload(checkout.dist / "trixie", V2)
    published()
    stray = deb(tmp_path / "repo/pool/main/p/pgpool2", "stray", "1")
    before = tree(tmp_path / "repo")
    lines: list[str] = []
    prune.run(prune.PruneRequest(tmp_path / "repo"), lines.append)
    assert lines[0] == f"{stray.relative_to(tmp_path / 'repo')}: would be removed"
    assert tree(tmp_path / "repo") == before
    prune.run(prune.PruneRequest(tmp_path / "repo", older=1, yes=True), lines.append)
    repository = Repository.open(tmp_path / "repo")
    assert [repository.state] == list(repository.states)
    assert not stray.exists()
    assert check.run(str(tmp_path / "repo"), lines.append, install=False) is ExitStatus.GOOD, lines
    assert {("pgpool2", V1), ("pgpool2", V2)} <= set(versions(tmp_path / "repo", "trixie-testing"))


# -- in a pipeline -----------------------------------------------------------------------------------------------------


def test_a_pipeline_publishes_new_packages_and_skips_rebuilt_ones(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    published()
    assert published(new=True)[-1] == f"nothing to publish: {tmp_path / 'repo'} is unchanged"
    assert len(Repository.open(tmp_path / "repo").states) == 1
    before = tree(tmp_path / "repo" / "pool")
    upload(checkout.dist / "trixie", V1, binaries=("pgpool2", "libpgpool-dev"), text="with another compiler")
    lines = published(new=True)
    assert [line for line in lines if line.startswith(f"pgpool2 {V1} is already published with a different ")]
    assert lines[-1].startswith("nothing to publish")
    upload(checkout.dist / "trixie", "0.2.1+deb13+1", source="pgpool2-cluster")
    published(new=True)
    after = tree(tmp_path / "repo" / "pool")
    assert {name for name in after if "pgpool2/" in name} == {name for name in before if "pgpool2/" in name}
    assert ("pgpool2-cluster", "0.2.1+deb13+1") in versions(tmp_path / "repo", "trixie-testing")


def test_a_pipeline_skips_an_unproved_release(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    proved(checkout)
    upload(checkout.dist / "bookworm", "4.7.2-50+deb12+1")
    lines = published(new=True, unproved=False)
    assert lines[0].startswith("bookworm: skipped: pgpool2 4.7.2-50+deb12+1: the last matrix did not test bookworm")
    assert list(suites.named(Repository.open(tmp_path / "repo").state)) == ["trixie-testing"]


def test_a_package_counts_as_new_once_it_is_proved(published: Publisher, checkout: Project, tmp_path: Path) -> None:
    published()
    proved(checkout)
    published(new=True, unproved=False)
    release = (tmp_path / "repo/dists/trixie-testing/Release").read_text()
    assert "not proved" not in release
