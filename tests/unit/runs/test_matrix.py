"""The matrix itself, with a double for its commands: order of stages, omitted stages, and files of the report."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.runs.matrix import Matrix, MatrixRequest, Stage, next_up, parse_stages, stages_of
from pgpool_deb.runs.proof import StageState

TABLE = ReleaseTable.load(Project(Path(__file__).parents[3]).releases)
STAGES = (Stage("install", ("tests/install",)), Stage("cluster", ("tests/cluster",), hosts=True))
PASSES = '<testsuite><testcase name="a"/></testsuite>'
FAILS = '<testsuite><testcase name="a"><failure message="assert 0"/></testcase></testsuite>'
Ran = list[tuple[str, str, float, float]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Record each pytest run: release, stage, start and end. The runs of sid's install fail; forky does not build."""
    result: Ran = []
    lock = threading.Lock()

    def logged(self: Matrix, command: Sequence[str], log: Path) -> int:
        log.write_text("as it went\n")
        if "build-deb" in command:
            cells = [
                {
                    "release": one.name,
                    "arch": "amd64",
                    "pgpool": "4.6.1",
                    "seconds": 1.0,
                    "log": str(log),
                    "state": "failed" if one.name == "forky" else "built",
                    "stage": "compile",
                    "error": "pcp.c:1: error",
                }
                for one in self.releases
            ]
            (self.project.dist / "summary.json").write_text(json.dumps({"cells": cells}))
            return 1
        began = time.monotonic()
        time.sleep(0.05)
        release, _, stage = log.stem.partition("-")
        bad = (release, stage) == ("sid", "install")
        log.with_suffix(".xml").write_text(FAILS if bad else PASSES)
        with lock:
            result.append((release, stage, began, time.monotonic()))
        return int(bad)

    monkeypatch.setattr(Matrix, "_logged", logged)
    return result


@pytest.fixture
def matrix(tmp_path: Path) -> Callable[..., Matrix]:
    (tmp_path / "dist").mkdir()

    def make(*names: str, jobs: int = 2) -> Matrix:
        project = Project(tmp_path)
        releases = tuple(TABLE.named(name) for name in names)
        return Matrix(project, project.dist / "report", releases, STAGES, MatrixRequest(jobs=jobs))

    return make


def together(ran: Ran, *, stage: str = "") -> int:
    """Return the largest number of runs at the same time."""
    chosen = [(began, ended) for _, name, began, ended in ran if stage in ("", name)]
    return max(sum(began <= moment < ended for began, ended in chosen) for moment, _ in chosen)


def test_one_failing_cell_stops_no_other(matrix: Callable[..., Matrix], ran: Ran) -> None:
    proof = matrix("trixie", "forky", "sid").run()
    states = {cell.release: [one.state for one in cell.stages] for cell in proof.cells}
    assert states == {
        "trixie": [StageState.PASSED] * 3,
        "forky": [StageState.FAILED, StageState.LEFT_OUT, StageState.LEFT_OUT],
        "sid": [StageState.PASSED, StageState.FAILED, StageState.PASSED],
    }
    assert proof.exit_status is ExitStatus.FAILED
    assert len(ran) == 4
    again = {cell.release: cell.stages[1].again for cell in proof.cells}
    assert again["sid"] == ".venv/bin/python -m pytest --releases=sid tests/install"


def test_stages_with_hosts_run_one_at_a_time_beside_the_others(matrix: Callable[..., Matrix], ran: Ran) -> None:
    matrix("bookworm", "trixie", "sid", jobs=3).run()
    assert together(ran, stage="cluster") == 1
    assert 1 < together(ran) <= 3


def test_stages_with_hosts_never_run_last() -> None:
    """They run one at a time, so the last ones would otherwise run alone."""
    install, cluster = STAGES
    waiting = [("trixie", install), ("sid", install), ("trixie", cluster), ("sid", cluster)]
    assert next_up(waiting, booted=False) == ("trixie", cluster)
    assert next_up(waiting, booted=True) == ("trixie", install)
    assert next_up(waiting[2:], booted=True) is None
    assert next_up(waiting[:2], booted=False) == ("trixie", install)


def test_one_job_runs_one_stage_at_a_time(matrix: Callable[..., Matrix], ran: Ran) -> None:
    matrix("bookworm", "trixie", jobs=1).run()
    assert together(ran) == 1
    assert len(ran) == 4


def test_every_link_of_the_report_is_a_file(matrix: Callable[..., Matrix], ran: Ran) -> None:
    made = matrix("trixie", "forky")
    proof = made.run()
    assert ran
    logs = [one.log for cell in proof.cells for one in cell.stages if one.log]
    assert len(logs) == 4
    assert all((made.place / log).is_file() for log in logs)
    assert {"index.html", "table.md", "report.json", "junit.xml"} <= {path.name for path in made.place.iterdir()}


def test_regressions_are_relative_to_the_previous_run(matrix: Callable[..., Matrix], ran: Ran) -> None:
    made = matrix("sid")
    assert made.run().worse == ()
    report = made.place / "report.json"
    before = json.loads(report.read_text())
    before["cells"][0]["stages"][1] |= {"state": "passed", "failures": []}
    report.write_text(json.dumps(before))
    after = made.run()
    assert [one.what for one in after.worse] == ["a: assert 0"]
    assert after.before == before["written"]
    assert ran


def test_an_unreadable_previous_report_is_ignored(matrix: Callable[..., Matrix], ran: Ran) -> None:
    made = matrix("sid")
    made.place.mkdir(parents=True)
    (made.place / "report.json").write_text("{half")
    assert made.run().worse == ()
    assert ran


def test_a_build_that_cannot_start_is_the_machines_fault(
    matrix: Callable[..., Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Matrix, "_logged", lambda _, __, log: log.write_text("no mirror") and 3)
    proof = matrix("trixie").run()
    assert [one.state for one in proof.cells[0].stages] == [StageState.BROKEN, StageState.LEFT_OUT, StageState.LEFT_OUT]
    assert proof.exit_status is ExitStatus.ENVIRONMENT


def test_stages_are_parsed() -> None:
    assert parse_stages(None) == ()
    assert parse_stages("install, quality") == ("install", "quality")
    assert parse_stages("upstream") == ("upstream",)
    with pytest.raises(UsageError, match="unknown stage: 'inst'"):
        parse_stages("inst")


@pytest.mark.parametrize(
    ("requested", "tried"),
    [
        ((), ["quality", "debian", "install", "cluster", "dist-upgrade"]),
        (("upstream", "quality"), ["quality", "upstream"]),
    ],
)
def test_upstreams_suite_runs_only_on_request(requested: tuple[str, ...], tried: list[str]) -> None:
    assert [stage.name for stage in stages_of(MatrixRequest(stages=requested))] == tried
