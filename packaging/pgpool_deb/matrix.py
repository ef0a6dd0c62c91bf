"""`./invoke matrix`: build every cell and prove it in stages, side by side; one that fails stops no other.

A stage is a choice of the project's own tests for one release, in a pytest of its own with its own log. What they
found is in dist/report: a page and a table for people, the same as JSON and as JUnit.
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

from . import atomic, machine, page, testing
from .build_deb import say
from .errors import ExitStatus, UsageError
from .project import Project
from .proof import CellResult, Failure, Proof, StageResult, State, read_junit, state_of
from .releases import Release, ReleaseTable, machine_release

BUILD = "build"


@dataclass(frozen=True, slots=True)
class Stage:
    """What is tried of a cell: `tests` are pytest's words. Of those that have many `hosts`, one runs at a time."""

    name: str
    tests: tuple[str, ...]
    hosts: bool = False
    on_request: bool = False
    """Tried only where it is named."""


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
class Request:
    """The options of `./invoke matrix`, parsed; no releases mean all of them, no stages all but those on request."""

    releases: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    jobs: int = 1
    install: bool = True


def parse_stages(text: str | None) -> tuple[str, ...]:
    """Read `quality,install`; raises UsageError for a stage that there is not."""
    asked = tuple(word.strip() for word in text.split(",")) if text is not None else ()
    known = [stage.name for stage in STAGES]
    for word in asked:
        if word not in known:
            hint = f"one or more of {','.join(known)}; {BUILD} is always the first"
            raise UsageError(f"unknown stage: {word!r}", hint=hint)
    return asked


def stages_of(request: Request) -> tuple[Stage, ...]:
    """Return what is to be tried, in the order of STAGES."""
    return tuple(
        stage for stage in STAGES if (stage.name in request.stages if request.stages else not stage.on_request)
    )


def next_up(waiting: Sequence[tuple[str, Stage]], *, booted: bool) -> tuple[str, Stage] | None:
    """Return which cell and stage to begin next, if any may.

    Stages with hosts take longest and go one at a time, so one of them is always under way; `booted` says that it is.
    """
    return next((one for one in waiting if one[1].hosts and not booted), None) or next(
        (one for one in waiting if not one[1].hosts), None
    )


def run(project: Project, request: Request) -> ExitStatus:
    """Build, prove, write dist/report, and return the exit status; raises ToolkitError where nothing can begin."""
    if request.jobs < 1:
        raise UsageError("--jobs takes a whole number above 0", hint="./invoke --help matrix")
    table = ReleaseTable.load(project.releases)
    releases = table.select(request.releases, machine_release()) if request.releases else table.releases
    machine.require(testing.tools_of(("install",)), install=request.install, report=say)
    matrix = Matrix(project, project.dist / "report", tuple(releases), stages_of(request), request)
    proof = matrix.run()
    for line in proof.closing_lines():
        say(line)
    say(f"the report: {matrix.place / 'index.html'}")
    return proof.exit_status


@dataclass(slots=True)
class Matrix:
    """A run over `releases`; its report goes to `place`, which is written anew."""

    project: Project
    place: Path
    releases: tuple[Release, ...]
    stages: tuple[Stage, ...]
    request: Request

    def run(self) -> Proof:
        """Return what was proved, once the report is written."""
        before = self._before()
        logs = self.place / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        began = time.monotonic()
        cells = self._build()
        results = self._prove([cell for cell in cells if cell.stages[0].state is State.PASSED])
        cells = tuple(self._completed(cell, results) for cell in cells)
        written = datetime.now(UTC).isoformat(timespec="seconds")
        proof = Proof(written, _machine(), time.monotonic() - began, cells)
        proof = replace(proof, worse=proof.since(before), before=str(before.get("written", "")))
        write(self.place, proof)
        return proof

    def _before(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.place / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def _build(self) -> tuple[CellResult, ...]:
        """Build all releases in one run of build-deb, which works on several at once."""
        names = ",".join(release.name for release in self.releases)
        command = [str(self.project.path / "invoke"), "build-deb", "--release", names]
        log = self.place / "logs" / "build.log"
        status = self._logged([*command, *self._refusal], log)
        try:
            summary = json.loads((self.project.dist / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            summary = {"cells": []}
        told = {cell["release"]: cell for cell in summary["cells"]} if status in (0, 1) else {}
        return tuple(self._built(release, told.get(release.name)) for release in self.releases)

    def _built(self, release: Release, told: dict[str, Any] | None) -> CellResult:
        if told is None:
            failure = Failure("build-deb", "it ended before it built anything: its log has why")
            broken = StageResult(BUILD, State.BROKEN, failures=(failure,), log="logs/build.log")
            return CellResult(release.name, release.name, (broken,))
        log = self.place / "logs" / f"{release.name}-build.log"
        again = shlex.join(["./invoke", "build-deb", "--release", release.name])
        name = f"{release.name}-{told['arch']}-{told['pgpool']}"
        try:
            shutil.copyfile(told["log"], log)
        except OSError:
            shutil.copyfile(self.place / "logs" / "build.log", log)
        good = told["state"] != "failed"
        failures = () if good else (Failure(str(told.get("stage")), str(told.get("error"))),)
        state = State.PASSED if good else State.FAILED
        result = StageResult(BUILD, state, told["seconds"], 1, 0, failures, f"logs/{log.name}", again)
        files = {str(file["name"]): str(file["sha256"]) for file in told.get("files", ())}
        return CellResult(name, release.name, (result,), files)

    def _prove(self, cells: Sequence[CellResult]) -> dict[tuple[str, str], StageResult]:
        """Try all stages of all cells that were built, at most `jobs` at once."""
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
        later = [
            results.get((cell.release, stage.name), StageResult(stage.name, State.LEFT_OUT)) for stage in self.stages
        ]
        return replace(cell, stages=(*cell.stages, *later))

    def _logged(self, command: Sequence[str], log: Path) -> int:
        with log.open("wb") as stream:
            return subprocess.run(
                command, cwd=self.project.path, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                check=False, env={**os.environ, "CI": "true"},
            ).returncode  # fmt: skip

    @property
    def _refusal(self) -> list[str]:
        return [] if self.request.install else ["--no-install"]


def write(place: Path, proof: Proof) -> None:
    """Write a report, but for its logs."""
    atomic.write(place / "report.json", json.dumps(proof.as_json(), indent=2) + "\n")
    atomic.write(place / "junit.xml", proof.junit())
    atomic.write(place / "table.md", page.table(proof))
    atomic.write(place / "index.html", page.html(proof))


def _machine() -> str:
    cores = os.cpu_count() or 1
    return f"{platform.freedesktop_os_release().get('PRETTY_NAME', platform.system())}, {cores} cores"
