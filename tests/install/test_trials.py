"""`check-repository --trial`: apt tests a repository's packages in a root that can reach Debian's archive."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.built import Built

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, publish
from pgpool_deb.runs.small_packages import upload

pytestmark = pytest.mark.thorough


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a repository, signed with its own key."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(time.time()) - 60))
    return tmp_path / "repository"


def test_built_packages_install_and_can_be_removed(project: Project, packages: Built, place: Path) -> None:
    name = packages.release.name
    publish.run(project, publish.PublishRequest(place, releases=(name,), unproved=True), print)
    lines: list[str] = []
    assert check.run(str(place), lines.append, project=project) is ExitStatus.GOOD, lines
    assert any(line.startswith(f"{name}-testing: ") and "installed and purged" in line for line in lines)


def test_a_failed_installation_is_a_fault_with_apts_reason(
    project: Project, packages: Built, place: Path, tmp_path: Path
) -> None:
    checkout = Project(tmp_path / "checkout")
    (checkout.path / "packaging").mkdir(parents=True)
    for name in ("releases.toml", "sources.toml"):
        (checkout.path / "packaging" / name).write_bytes((project.path / "packaging" / name).read_bytes())
    release = packages.release
    upload(checkout.dist / release.name, f"9.9.9-50+deb{release.number}+1")
    publish.run(checkout, publish.PublishRequest(place, releases=(release.name,), unproved=True), print)
    lines: list[str] = []
    assert check.run(str(place), lines.append, project=project) is ExitStatus.FAILED
    (fault,) = [line for line in lines if line.startswith("fault: ")]
    assert f"{release.name}-testing: install the newest version: " in fault
    assert "pgpool2 : Depends: pgpool2-common but it is not installable" in fault
