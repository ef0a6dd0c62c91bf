"""The reports of a build, and the exit status that follows from the outcomes of its cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pgpool_deb.builds.plan import Cell
from pgpool_deb.builds.workshop import INTERRUPTED, BuildStage, BuildState, CellOutcome, Outcome
from pgpool_deb.ground.errors import ExitStatus, MachineError, PackageError, ToolkitError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.packages import pgpool2, pgpool2_cluster
from pgpool_deb.runs import report
from pgpool_deb.upstream.sources import Source

HERE = Project(Path(__file__).parents[3])
TABLE = ReleaseTable.load(HERE.releases)
SOURCE = Source("4.6.1", Path("/pgpool2.tar.gz"), "gz", "0" * 64, True, 1_747_310_400, "release 4.6.1", False)
DIST = Path("/checkout/dist")
LOG = Path("/cache/logs/a.log")
BROKEN = PackageError('pcp.c:1: error: "<>&"', hint="the log has the rest")
NO_MIRROR = MachineError("the mirror is gone", hint="--mirror URL")


def cell(name: str) -> Cell:
    """Return the cell of a release on an amd64 machine."""
    release, revision = TABLE.named(name), TABLE.revision
    title, templates = f"{name}-amd64-4.6.1", HERE.templates(pgpool2.NAME)
    pgpool = pgpool2.source_package(title, release, SOURCE, release.postgresql, revision, templates)
    cluster = pgpool2_cluster.source_package(release, revision, HERE)
    return Cell(release, "amd64", SOURCE.version, release.postgresql, (pgpool, cluster))


TRIXIE = cell("trixie")
PGPOOL2 = Outcome(TRIXIE.packages[0], BuildState.BUILT, 44.1234567, LOG, {"b.deb": "1" * 64, "a.changes": "2" * 64})
CLUSTER = Outcome(TRIXIE.packages[1], BuildState.BUILT, 2.5, LOG, {"pgpool2-cluster.deb": "3" * 64})


def unchanged(outcome: Outcome) -> Outcome:
    return replace(outcome, state=BuildState.UNCHANGED, seconds=0.0)


def failed(outcome: Outcome, stage: BuildStage, error: ToolkitError, shell: Sequence[str] = ()) -> Outcome:
    return replace(outcome, state=BuildState.FAILED, stage=stage, error=error, shell=tuple(shell), files={})


BUILT = CellOutcome(TRIXIE, (PGPOOL2, CLUSTER))
UNCHANGED = CellOutcome(cell("sid"), (unchanged(PGPOOL2), unchanged(CLUSTER)))
FORKY = cell("forky")
FAILED = CellOutcome(
    FORKY, (replace(failed(PGPOOL2, BuildStage.COMPILE, BROKEN, ("unshare",)), package=FORKY.pgpool2),)
)
ROOTLESS = CellOutcome(cell("bookworm"), (failed(PGPOOL2, BuildStage.ROOT, NO_MIRROR),))


def _xml(text: str) -> ET.Element:
    return ET.fromstring(text.encode())  # noqa: S314 - our own


def test_the_summary_has_the_documented_keys() -> None:
    built, broken = report.summary([BUILT, FAILED], DIST)["cells"]
    assert {"release", "arch", "pgpool", "majors", "state", "seconds", "files"} <= built.keys()
    assert (built["release"], built["arch"], built["pgpool"], built["majors"]) == ("trixie", "amd64", "4.6.1", [17])
    assert (built["state"], built["seconds"]) == ("built", 46.623)
    assert built["files"] == [
        {"name": "a.changes", "path": "/checkout/dist/trixie/a.changes", "sha256": "2" * 64},
        {"name": "b.deb", "path": "/checkout/dist/trixie/b.deb", "sha256": "1" * 64},
        {"name": "pgpool2-cluster.deb", "path": "/checkout/dist/trixie/pgpool2-cluster.deb", "sha256": "3" * 64},
    ]
    assert not {"stage", "error"} & built.keys()
    assert (broken["state"], broken["stage"], broken["error"]) == ("failed", "compile", BROKEN.message)
    assert broken["files"] == []


def test_every_state_is_a_documented_one() -> None:
    assert {str(state) for state in BuildState} == {"built", "unchanged", "failed"}


@pytest.mark.parametrize(
    ("pgpool", "cluster", "state"),
    [
        (PGPOOL2, CLUSTER, "built"),
        (unchanged(PGPOOL2), CLUSTER, "built"),
        (PGPOOL2, unchanged(CLUSTER), "built"),
        (unchanged(PGPOOL2), unchanged(CLUSTER), "unchanged"),
        (PGPOOL2, failed(CLUSTER, BuildStage.PACKAGE, BROKEN), "failed"),
        (unchanged(PGPOOL2), failed(CLUSTER, BuildStage.COMPILE, BROKEN), "failed"),
    ],
)
def test_the_outcome_of_a_cell_follows_from_its_packages(pgpool: Outcome, cluster: Outcome, state: str) -> None:
    assert str(CellOutcome(TRIXIE, (pgpool, cluster)).state) == state


def test_both_files_are_written_and_can_be_parsed(tmp_path: Path) -> None:
    report.write([BUILT, FAILED], tmp_path / "dist")
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == ["junit.xml", "summary.json"]
    summary = json.loads((tmp_path / "dist" / "summary.json").read_text())
    assert [row["state"] for row in summary["cells"]] == ["built", "failed"]
    assert _xml((tmp_path / "dist" / "junit.xml").read_text()).get("tests") == "2"


def test_junit_distinguishes_a_packages_fault_from_a_machines() -> None:
    suite = _xml(report.junit([BUILT, UNCHANGED, FAILED, ROOTLESS]))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
    }
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    assert kinds == {
        "trixie-amd64-4.6.1": [],
        "sid-amd64-4.6.1": [],
        "forky-amd64-4.6.1": ["failure"],
        "bookworm-amd64-4.6.1": ["error"],
    }
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == BROKEN.message
    assert failure.text == f"compile: {BROKEN.message}\nhint: {BROKEN.hint}"


def test_the_closing_lines_show_where_packages_are_and_how_to_debug_a_failure() -> None:
    assert report.closing_lines([BUILT, FAILED, ROOTLESS], DIST) == [
        "trixie-amd64-4.6.1: built, 46.6 s, 2 packages in /checkout/dist/trixie",
        "forky-amd64-4.6.1: failed, 44.1 s, at compile",
        f"  error: {BROKEN.message}",
        f"  hint:  {BROKEN.hint}",
        "  log:   /cache/logs/a.log",
        "  shell: ./invoke shell forky-amd64-4.6.1",
        "bookworm-amd64-4.6.1: failed, 44.1 s, at root",
        f"  error: {NO_MIRROR.message}",
        f"  hint:  {NO_MIRROR.hint}",
        "  log:   /cache/logs/a.log",
    ]


def test_a_cell_whose_second_package_fails_has_no_files_and_names_that_package_for_the_shell() -> None:
    broken = replace(failed(CLUSTER, BuildStage.PACKAGE, BROKEN, ("unshare",)), log=LOG.with_name("cluster.log"))
    ended = CellOutcome(TRIXIE, (PGPOOL2, broken))
    assert (ended.files, ended.log) == ({}, LOG.with_name("cluster.log"))
    first, *_, log, shell = report.closing_lines([ended], DIST)
    assert first == "trixie-amd64-4.6.1: failed, 46.6 s, at package"
    assert (log, shell) == ("  log:   /cache/logs/cluster.log", "  shell: ./invoke shell trixie-pgpool2-cluster")


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ((None, None), ExitStatus.GOOD),
        ((None, BROKEN), ExitStatus.FAILED),
        ((NO_MIRROR, None), ExitStatus.ENVIRONMENT),
        ((NO_MIRROR, BROKEN), ExitStatus.ENVIRONMENT),
        ((BROKEN, INTERRUPTED), ExitStatus.ENVIRONMENT),
        ((), ExitStatus.GOOD),
    ],
)
def test_a_machines_fault_outweighs_a_packages(errors: Sequence[ToolkitError | None], status: ExitStatus) -> None:
    outcomes = [failed(PGPOOL2, BuildStage.CHECK, error) if error else PGPOOL2 for error in errors]
    assert report.exit_status([CellOutcome(TRIXIE, (outcome,)) for outcome in outcomes]) is status
