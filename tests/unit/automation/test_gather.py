"""Matrix runs on several machines are merged with packages, report and logs; an incomplete run changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.runs.reports import run_of

from pgpool_deb.automation import gather
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.repository import admission
from pgpool_deb.runs.proof import Proof, StageState

V = {"bookworm": "4.7.2-50+deb12+1", "trixie": "4.7.2-50+deb13+1"}
HERE = Path(__file__).parents[3]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Make the results of two cells."""
    for name, version in V.items():
        run_of(tmp_path / "cells" / name, name, version)
    return tmp_path / "cells"


def gathered(cells: Path) -> tuple[Project, ExitStatus]:
    project = Project(cells.parent / "checkout")
    project.path.mkdir(exist_ok=True)
    return project, gather.run(project, cells, print)


def test_separate_proofs_are_merged(cells: Path) -> None:
    project, status = gathered(cells)
    assert status is ExitStatus.GOOD
    report = json.loads((project.dist / "report" / "report.json").read_text())
    assert [cell["release"] for cell in report["cells"]] == list(V)
    table = ReleaseTable.load(Project(HERE).releases)
    for name in V:
        release = table.named(name)
        those = admission.uploads(project.dist / name, release)
        assert admission.unproved(those, release, project.dist / "report" / "report.json") == []
    for cell in report["cells"]:
        assert all((project.dist / "report" / stage["log"]).is_file() for stage in cell["stages"])
    assert "trixie" in (project.dist / "report" / "index.html").read_text()


def test_the_old_contents_of_dist_are_replaced(cells: Path) -> None:
    project, _ = gathered(cells)
    (project.dist / "trixie" / "left.deb").touch()
    (project.dist / "report" / "logs" / "left").mkdir()
    gathered(cells)
    assert not (project.dist / "trixie" / "left.deb").exists()
    assert sorted(path.name for path in (project.dist / "report" / "logs").iterdir()) == list(V)
    assert sorted(path.name for path in project.dist.iterdir()) == ["bookworm", "report", "trixie"]


def test_a_failed_cell_is_reported_and_decides_the_status(cells: Path) -> None:
    run_of(cells / "trixie", "trixie", V["trixie"], StageState.FAILED)
    assert gathered(cells)[1] is ExitStatus.FAILED


def test_untested_files_are_refused_and_dist_stays(cells: Path) -> None:
    project, _ = gathered(cells)
    (deb,) = (cells / "trixie" / "trixie").glob("*.deb")
    deb.write_bytes(b"another")
    before = sorted(project.dist.rglob("*"))
    with pytest.raises(UsageError, match="is missing or differs from the tested file"):
        gathered(cells)
    assert sorted(project.dist.rglob("*")) == before


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("{}", "is damaged"), ("[1", "is damaged")])
def test_a_run_without_a_complete_report_is_refused(content: str | None, says: str, cells: Path) -> None:
    path = cells / "trixie" / "report" / "report.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=says):
        gathered(cells)


def test_two_reports_of_one_cell_are_refused(cells: Path) -> None:
    run_of(cells / "trixie-again", "trixie", V["trixie"])
    with pytest.raises(UsageError, match="two reports contain trixie"):
        gathered(cells)


def test_a_folder_without_runs_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no runs"):
        gathered(tmp_path / "nothing")


def test_a_report_survives_a_round_trip(cells: Path) -> None:
    report = json.loads((cells / "trixie" / "report" / "report.json").read_text())
    assert Proof.from_json(report).as_json() == report
