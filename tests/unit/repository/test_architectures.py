"""A new architecture in a suite gets the packages for all architectures; indexes of the others stay identical."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import FIRST, V1, V2, Publisher, proved

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, promote
from pgpool_deb.runs.small_packages import upload

SUITE = "dists/trixie-testing/main"
SHARED = ("usr/share/pgpool2-cluster/text", "usr/share/keyrings/pgpool-deb-archive-keyring.gpg")


def index(repo: Path, name: str, suite: str = SUITE) -> str:
    return gzip.decompress((repo / suite / name).read_bytes()).decode()


def paths(contents: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in contents.splitlines()}


def another_machine(checkout: Project, version: str = V1) -> None:
    """Replace the packages of dist/ by those of an arm64 machine."""
    shutil.rmtree(checkout.dist / "trixie")
    upload(checkout.dist / "trixie", version, binaries=("pgpool2", "libpgpool-dev"), machine="arm64")


def whole(repo: Path) -> None:
    lines: list[str] = []
    assert check.run(str(repo), lines.append, install=False) is ExitStatus.GOOD, lines


@pytest.mark.parametrize("version", [V1, V2], ids=["of the same version", "of a newer version"])
def test_a_new_architecture_has_packages_for_all_and_the_others_keep_their_bytes(
    published: Publisher, checkout: Project, tmp_path: Path, version: str
) -> None:
    published()
    repo = tmp_path / "repo"
    names = ("binary-amd64/Packages.gz", "Contents-amd64.gz")
    before = {name: (repo / SUITE / name).read_bytes() for name in names}
    another_machine(checkout, version)
    published()
    assert {name: (repo / SUITE / name).read_bytes() for name in names} == before
    packages = index(repo, "binary-arm64/Packages.gz")
    assert "Package: pgpool2-cluster\n" in packages
    assert "Package: pgpool-deb-archive-keyring\n" in packages
    assert "Architecture: amd64" not in packages
    found = paths(index(repo, "Contents-arm64.gz"))
    assert {*SHARED, "usr/share/pgpool2/text"} <= found
    assert "Architectures: amd64 arm64\n" in (repo / "dists/trixie-testing/Release").read_text()
    whole(repo)
    assert Apt.new(tmp_path / "apt", repo).versions("pgpool2") == {V1}


def test_publishing_architectures_together_or_in_turn_gives_the_same_contents(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """Only the keyring packages differ, as their version is the time of the first publish."""
    published()
    another_machine(checkout)
    published()
    upload(checkout.dist / "trixie", V1, binaries=("pgpool2", "libpgpool-dev"))
    upload(checkout.dist / "trixie", "0.2.0+deb13+1", source="pgpool2-cluster")
    published(to=tmp_path / "other")
    for name in ("Contents-amd64.gz", "Contents-arm64.gz"):
        assert index(tmp_path / "repo", name) == index(tmp_path / "other", name)


def test_an_architecture_stays_if_all_its_packages_are_for_all_architectures(
    published: Publisher, checkout: Project, tmp_path: Path
) -> None:
    """A suite with only the cluster package is for amd64; then an arm64 machine publishes."""
    shutil.rmtree(checkout.dist / "trixie")
    upload(checkout.dist / "trixie", "0.2.0+deb13+1", source="pgpool2-cluster")
    published()
    before = index(tmp_path / "repo", "binary-amd64/Packages.gz")
    another_machine(checkout)
    published()
    assert index(tmp_path / "repo", "binary-amd64/Packages.gz") == before
    assert set(SHARED) <= paths(index(tmp_path / "repo", "Contents-arm64.gz"))
    assert Apt.new(tmp_path / "apt", tmp_path / "repo").versions("pgpool2-cluster") == {"0.2.0+deb13+1"}


def test_promotion_adds_an_architecture_to_a_suite_with_other_packages(
    published: Publisher, checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(suite="stable")
    another_machine(checkout)
    proved(checkout)
    published(unproved=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 900))
    promote.run(checkout, promote.PromoteRequest(tmp_path / "repo", install=False), print)
    found = paths(index(tmp_path / "repo", "Contents-arm64.gz", "dists/trixie/main"))
    assert {*SHARED, "usr/share/pgpool2/text"} <= found
    assert "Package: pgpool2-cluster\n" in index(tmp_path / "repo", "binary-arm64/Packages.gz", "dists/trixie/main")
    whole(tmp_path / "repo")
