"""`./invoke test`: run the tests of one or more levels, for one or more releases, with pytest.

Levels are the folders of tests/, cheapest first. The unit level runs first, several tests at once; then the other
levels run in lanes. The tools that a level needs on this machine are installed first. The tests' fixtures make
everything else (roots, packages) with the same code as `./invoke build-deb`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from pgpool_deb.boxes import machine
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable

from . import coverage_table
from .build_deb import say

UNIT, MODEL = "unit", "model"
LEVELS = (UNIT, "package", "install", "cluster")
ON_REQUEST = ("simulation", MODEL, "upstream", "fuzz", "reproducible")
"""Levels that run only if the user names them."""
LANES = (("package", "install", MODEL), ("cluster", "simulation", "upstream", "fuzz", "reproducible"))
"""Lanes run in parallel, and the levels of a lane in sequence. The second lane mostly waits for its hosts.

The tests of the second lane have deadlines, so the first lane runs niced.
"""
_WITHOUT_ROOTS = {UNIT: machine.UNIT_TESTS, MODEL: machine.MODEL_TESTS}
"""The tools of the levels that need no clean root."""
_NICE = 10
_WORKERS_PER_CORE, _MOST_WORKERS = 2, 8
"""Processes that run unit tests, which wait for threads and programs almost half of the time."""
_COVERAGE = "coverage-unit.json"
PYTEST_PASSED, PYTEST_FAILED, PYTEST_NO_TESTS = 0, 1, 5
MACHINE_FAILED = 83
"""The exit status that tests/conftest.py gives pytest if a MachineError kept a test from running."""


@dataclass(frozen=True, slots=True)
class LevelsRequest:
    """The parsed options of `./invoke test`."""

    levels: tuple[str, ...] = LEVELS
    releases: tuple[str, ...] = ()
    every_release: bool = False
    install: bool = True
    coverage: bool = False


def parse_levels(text: str | None) -> tuple[str, ...]:
    """Parse `unit,package` into levels, cheapest first; None means all but those on request.

    Raises UsageError for an unknown level.
    """
    if text is None:
        return LEVELS
    requested = [word.strip() for word in text.split(",")]
    known = (*LEVELS, *ON_REQUEST)
    unknown = [word for word in requested if word not in known]
    if unknown:
        raise UsageError(f"unknown level of tests: {unknown[0] or text!r}", hint=f"one or more of {','.join(known)}")
    return tuple(level for level in known if level in requested)


def releases_of(request: LevelsRequest, table: ReleaseTable) -> tuple[Release, ...]:
    """Return the releases to test: the requested ones, or all, or by default the stable one."""
    if request.every_release and request.releases:
        raise UsageError(
            "--all and --release exclude each other", hint="omit --release: --all tests every row of releases.toml"
        )
    if request.every_release:
        return table.releases
    if request.releases:
        return table.select(request.releases, "")
    return (table.stable,)


def tools_of(levels: Iterable[str]) -> tuple[machine.Tool, ...]:
    """Return the tools that tests of these levels need on this machine besides the Python environment."""
    tools: list[machine.Tool] = []
    for level in levels:
        tools += _WITHOUT_ROOTS[level] if level in _WITHOUT_ROOTS else machine.for_roots()
        tools += machine.PACKAGE_TESTS if level == "package" else ()
        tools += machine.REPOSITORIES if level == "install" else ()
    return tuple(dict.fromkeys(tools))


def run(project: Project, request: LevelsRequest) -> ExitStatus:
    """Run the tests, write dist/test-LEVEL.xml for each level, and return the exit status of the worst lane.

    Raises UsageError for options that exclude each other, MachineError for tools that cannot be installed.
    """
    releases = releases_of(request, ReleaseTable.load(project.releases))
    if request.coverage and UNIT not in request.levels:
        raise UsageError("--coverage requires the unit level", hint="--level unit")
    machine.require(tools_of(request.levels), install=request.install, report=say)
    project.dist.mkdir(exist_ok=True)
    say(f"testing {', '.join(request.levels)} for {', '.join(release.name for release in releases)}")
    return max(_run_stage(project, request, stage, releases) for stage in stages_of(request.levels))


def _run_stage(
    project: Project, request: LevelsRequest, stage: Sequence[tuple[str, ...]], releases: Sequence[Release]
) -> ExitStatus:
    """Run the lanes of a stage, and split their reports by level."""
    lanes: list[Lane] = []
    for number, levels in enumerate(stage):
        report = project.dist / f".test-{number}.xml"
        report.unlink(missing_ok=True)
        command = pytest_command(project, request, levels, releases, report)
        lanes.append(Lane(levels, command, report, project.dist / f"test-{'-'.join(levels)}.log"))
    statuses = _run_all(project, lanes)
    for lane in lanes:
        if lane.report.exists():
            for line in split_report(lane.report, lane.levels, project.dist):
                say(line)
    measured = project.dist / _COVERAGE
    if request.coverage and (UNIT,) in stage and measured.exists():
        say("\n".join(coverage_table.lines(json.loads(measured.read_text(encoding="utf-8")))))
    return max(map(exit_status, statuses))


@dataclass(frozen=True, slots=True)
class Lane:
    """One run of pytest; its output goes to `output` while another lane has the screen."""

    levels: tuple[str, ...]
    command: list[str]
    report: Path
    output: Path


def stages_of(levels: Sequence[str]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return the stages of these levels: the unit level alone, then the lanes of the others, without empty ones."""
    lanes = (tuple(level for level in lane if level in levels) for lane in LANES)
    stages = (((UNIT,),) if UNIT in levels else (), tuple(lane for lane in lanes if lane))
    return tuple(stage for stage in stages if stage)


def _run_all(project: Project, lanes: Sequence[Lane]) -> list[int]:
    """Run the lanes in parallel and return their statuses. The last one has the screen; the others' output follows."""
    *others, last = lanes
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_in_background(project, lane)) for lane in others]
        own = subprocess.run(last.command, cwd=project.path, check=False).returncode
        statuses = [process.wait() for process in processes]
    for lane in others:
        say(lane.output.read_text(encoding="utf-8", errors="replace").rstrip())
    return [*statuses, own]


@contextlib.contextmanager
def _in_background(project: Project, lane: Lane) -> Iterator[subprocess.Popen[bytes]]:
    """Run a lane with its output in its file; end it if this program is interrupted."""
    say(f"{' and '.join(lane.levels)} in the background: tail -f {lane.output.relative_to(project.path)}")
    with lane.output.open("wb") as stream:
        # The lane has its own session, so that the terminal's Ctrl-C does not reach it and it gets one SIGINT below.
        # env resets SIGINT, which a shell ignores in background jobs.
        prefix = ["nice", "-n", str(_NICE), "env", "--default-signal=INT"]
        process = subprocess.Popen(
            [*prefix, *lane.command],
            cwd=project.path,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()


def pytest_command(
    project: Project, request: LevelsRequest, levels: Sequence[str], releases: Sequence[Release], report: Path
) -> list[str]:
    """Return the pytest command of a lane; each level starts when the cheaper ones of its lane have ended."""
    folders = [str(path) for level in levels if (path := project.path / "tests" / level).is_dir()]
    options = ["--continue-on-collection-errors", "--durations=15", "--durations-min=5", f"--junit-xml={report}"]
    if UNIT in levels:
        options += unit_options(project, coverage=request.coverage)
    if not os.environ.get("CI") and sys.stdout.isatty():
        options.append("-v")
    names = ",".join(release.name for release in releases)
    if not (request.releases or request.every_release):
        options.append("--brief")
    refusal = [] if request.install else ["--no-install"]
    return [sys.executable, "-m", "pytest", *options, f"--releases={names}", *refusal, *folders]


def unit_options(project: Project, *, coverage: bool) -> list[str]:
    """Return pytest's options for the unit level, whose tests need no order and no root of a release."""
    workers = min(_WORKERS_PER_CORE * (os.cpu_count() or 1), _MOST_WORKERS)
    options = [f"--numprocesses={workers}", "--dist=worksteal"]
    if coverage:
        measured = project.dist / _COVERAGE
        measured.unlink(missing_ok=True)
        options += ["--cov", f"--cov-report=json:{measured}"]  # pyproject.toml has what is measured
    return options


def split_report(report: Path, levels: Sequence[str], dist: Path) -> list[str]:
    """Split pytest's JUnit report into dist/test-LEVEL.xml; return a line with the time of each level.

    The time of a level with its own report is that of the run, since its tests may have run in parallel.
    """
    lines = []
    whole = ET.parse(report).getroot()  # noqa: S314 - our own pytest wrote it
    for level in levels:
        root = deepcopy(whole)
        for suite in root.iter("testsuite"):
            for case in list(suite.findall("testcase")):
                if not f"{case.get('classname', '')}.{case.get('name')}".lstrip(".").startswith(f"tests.{level}."):
                    suite.remove(case)
            _count(suite, alone=len(levels) == 1)
            lines.append(f"{level}: {suite.get('tests')} tests, {_minutes(float(suite.get('time', '0')))}")
        ET.ElementTree(root).write(dist / f"test-{level}.xml", encoding="utf-8", xml_declaration=True)
    report.unlink()
    return lines


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _count(suite: ET.Element, *, alone: bool) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    if not alone or suite.get("time") is None:
        suite.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def exit_status(pytest_status: int) -> ExitStatus:
    """Map pytest's exit status to ours; "no tests collected" counts as success."""
    if pytest_status in (PYTEST_PASSED, PYTEST_NO_TESTS):
        return ExitStatus.GOOD
    if pytest_status == PYTEST_FAILED:
        return ExitStatus.FAILED
    return ExitStatus.ENVIRONMENT if pytest_status == MACHINE_FAILED else ExitStatus.USAGE
