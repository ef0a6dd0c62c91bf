"""`./invoke matrix`: build every cell and prove it in stages, in parallel. A failure stops no other cell or stage.

A stage is a selection of the project's own tests for one release, in its own pytest with its own log. dist/report
gets the results: a page and a table for people, and the same as JSON and JUnit.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgpool_deb.boxes import machine
from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable, machine_release

from . import matrix_page, testing
from .build_deb import say
from .proof import CellResult, Failure, Proof, StageResult, StageState, read_junit, state_of

BUILD = "build"


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a cell's proof: `tests` are pytest's arguments. Of the stages that boot `hosts`, one runs at a time."""

    name: str
    tests: tuple[str, ...]
    hosts: bool = False
    on_request: bool = False
    """The stage runs only if the user names it."""


STAGES = (
    Stage("quality", ("tests/package/test_quality.py", "tests/package/test_contents.py")),
    Stage("debian", ("tests/package/test_debians_testers.py",)),
    Stage("install", ("tests/install",)),
    Stage("cluster", ("tests/cluster", "-m", "smoke"), hosts=True),
    Stage("dist-upgrade", ("tests/cluster/test_dist_upgrade.py",), hosts=True),
    Stage("upstream", ("tests/upstream",), hosts=True, on_request=True),
)


PROOF = (BUILD, *(stage.name for stage in STAGES if not stage.on_request))
"""The stages that prove a cell."""


@dataclass(frozen=True, slots=True)
class MatrixRequest:
    """The parsed options of `./invoke matrix`; no releases means all, no stages means all but those on request."""

    releases: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    jobs: int = 1
    install: bool = True


def parse_stages(text: str | None) -> tuple[str, ...]:
    """Parse `quality,install`; raises UsageError for an unknown stage."""
    asked = tuple(word.strip() for word in text.split(",")) if text is not None else ()
    known = [stage.name for stage in STAGES]
    for word in asked:
        if word not in known:
            hint = f"one or more of {','.join(known)}; {BUILD} always runs first"
            raise UsageError(f"unknown stage: {word!r}", hint=hint)
    return asked


def stages_of(request: MatrixRequest) -> tuple[Stage, ...]:
    """Return the requested stages in the order of STAGES."""
    return tuple(
        stage for stage in STAGES if (stage.name in request.stages if request.stages else not stage.on_request)
    )


def next_up(waiting: Sequence[tuple[str, Stage]], *, booted: bool) -> tuple[str, Stage] | None:
    """Return the release and stage to start next, if any may start.

    Stages with hosts take longest and run one at a time, so one of them should always run; `booted` means one does.
    """
    with_hosts = (candidate for candidate in waiting if candidate[1].hosts and not booted)
    others = (candidate for candidate in waiting if not candidate[1].hosts)
    return next(with_hosts, None) or next(others, None)


def run(project: Project, request: MatrixRequest) -> ExitStatus:
    """Build, prove, write dist/report, and return the exit status; raises ToolkitError if the run cannot start."""
    if request.jobs < 1:
        raise UsageError("--jobs takes a whole number above 0", hint="./invoke --help matrix")
    table = ReleaseTable.load(project.releases)
    releases = table.select(request.releases, machine_release()) if request.releases else table.releases
    machine.require(testing.tools_of(("install",)), install=request.install, report=say)
    matrix = Matrix(project, project.dist / "report", tuple(releases), stages_of(request), request)
    proof = matrix.run()
    for line in proof.closing_lines():
        say(line)
    say(f"report: {matrix.place / 'index.html'}")
    return proof.exit_status


@dataclass(slots=True)
class Matrix:
    """A run over `releases`, which replaces the report in `place`."""

    project: Project
    place: Path
    releases: tuple[Release, ...]
    stages: tuple[Stage, ...]
    request: MatrixRequest

    def run(self) -> Proof:
        """Run all stages, write the report and return the proof."""
        before = self._before()
        logs = self.place / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        began = time.monotonic()
        cells = self._build()
        results = self._prove([cell for cell in cells if cell.stages[0].state is StageState.PASSED])
        cells = tuple(self._completed(cell, results) for cell in cells)
        written = datetime.now(UTC).isoformat(timespec="seconds")
        proof = Proof(written, _machine(), time.monotonic() - began, cells)
        proof = replace(proof, worse=proof.since(before), before=str(before.get("written", "")))
        write(self.place, proof)
        return proof

    def _before(self) -> dict[str, Any]:
        try:
            report: dict[str, Any] = json.loads((self.place / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return report

    def _build(self) -> tuple[CellResult, ...]:
        """Build all releases in one run of build-deb, which builds several in parallel."""
        names = ",".join(release.name for release in self.releases)
        command = [str(self.project.path / "invoke"), "build-deb", "--release", names]
        log = self.place / "logs" / "build.log"
        status = self._logged([*command, *self._refusal], log)
        try:
            summary = json.loads((self.project.dist / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            summary = {"cells": []}
        rows = {cell["release"]: cell for cell in summary["cells"]} if status in (0, 1) else {}
        return tuple(self._built(release, rows.get(release.name)) for release in self.releases)

    def _built(self, release: Release, row: dict[str, Any] | None) -> CellResult:
        if row is None:
            failure = Failure("build-deb", "build-deb ended before the first build; read its log")
            broken = StageResult(BUILD, StageState.BROKEN, failures=(failure,), log="logs/build.log")
            return CellResult(release.name, release.name, (broken,))
        log = self.place / "logs" / f"{release.name}-build.log"
        again = shlex.join(["./invoke", "build-deb", "--release", release.name])
        name = f"{release.name}-{row['arch']}-{row['pgpool']}"
        try:
            shutil.copyfile(row["log"], log)
        except OSError:
            shutil.copyfile(self.place / "logs" / "build.log", log)
        good = row["state"] != "failed"
        failures = () if good else (Failure(str(row.get("stage")), str(row.get("error"))),)
        state = StageState.PASSED if good else StageState.FAILED
        result = StageResult(BUILD, state, row["seconds"], 1, 0, failures, f"logs/{log.name}", again)
        files = {str(file["name"]): str(file["sha256"]) for file in row.get("files", ())}
        return CellResult(name, release.name, (result,), files)

    def _prove(self, cells: Sequence[CellResult]) -> dict[tuple[str, str], StageResult]:
        """Run all stages of the built cells, at most `jobs` at once."""
        waiting = [(cell.release, stage) for stage in self.stages for cell in cells]
        results: dict[tuple[str, str], StageResult] = {}
        turn = threading.Condition()
        booted = False

        def work() -> None:
            nonlocal booted
            while True:
                with turn:
                    while (chosen := next_up(waiting, booted=booted)) is None and waiting:
                        turn.wait()
                    if chosen is None:
                        return
                    waiting.remove(chosen)
                    release, stage = chosen
                    booted = booted or stage.hosts
                try:
                    results[release, stage.name] = self._stage(release, stage)
                finally:
                    with turn:
                        booted = booted and not stage.hosts
                        turn.notify_all()

        with ThreadPoolExecutor(max_workers=self.request.jobs) as pool:
            for worker in [pool.submit(work) for _ in range(self.request.jobs)]:
                worker.result()
        return results

    def _stage(self, release: str, stage: Stage) -> StageResult:
        say(f"{release}: {stage.name}")
        log = self.place / "logs" / f"{release}-{stage.name}.log"
        junit = self.place / "logs" / f"{release}-{stage.name}.xml"
        options = ["-p", "no:cacheprovider", f"--releases={release}", f"--junit-xml={junit}", *self._refusal]
        began = time.monotonic()
        status = testing.exit_status(self._logged([sys.executable, "-m", "pytest", *options, *stage.tests], log))
        took = time.monotonic() - began
        tests, skipped, failures = read_junit(junit.read_text(encoding="utf-8")) if junit.exists() else (0, 0, ())
        state = state_of(status, tests, skipped)
        again = shlex.join([".venv/bin/python", "-m", "pytest", f"--releases={release}", *stage.tests])
        result = StageResult(stage.name, state, took, tests, skipped, failures, f"logs/{log.name}", again)
        say(f"{release}: {stage.name} {result.state} after {took:.0f} s")
        return result

    def _completed(self, cell: CellResult, results: dict[tuple[str, str], StageResult]) -> CellResult:
        left_out = {stage.name: StageResult(stage.name, StageState.LEFT_OUT) for stage in self.stages}
        later = [results.get((cell.release, name), result) for name, result in left_out.items()]
        return replace(cell, stages=(*cell.stages, *later))

    def _logged(self, command: Sequence[str], log: Path) -> int:
        with log.open("wb") as stream:
            return subprocess.run(
                command,
                cwd=self.project.path,
                env={**os.environ, "CI": "true"},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode

    @property
    def _refusal(self) -> list[str]:
        return [] if self.request.install else ["--no-install"]


def write(place: Path, proof: Proof) -> None:
    """Write a report except its logs."""
    atomic.write(place / "report.json", json.dumps(proof.as_json(), indent=2) + "\n")
    atomic.write(place / "junit.xml", proof.junit())
    atomic.write(place / "table.md", matrix_page.table(proof))
    atomic.write(place / "index.html", matrix_page.html(proof))


def _machine() -> str:
    cores = os.cpu_count() or 1
    return f"{platform.freedesktop_os_release().get('PRETTY_NAME', platform.system())}, {cores} cores"
