"""The proof of a matrix run: the results of the stages of each cell, and regressions since the previous run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree as ET

from pgpool_deb.ground.errors import ExitStatus


class StageState(StrEnum):
    """How a stage of a cell ended."""

    PASSED = "passed"
    FAILED = "failed"
    """A package is at fault."""
    BROKEN = "broken"
    """The machine is at fault, so the stage says nothing about the package."""
    LEFT_OUT = "left out"
    """There is nothing to test: an earlier stage failed, or every test was skipped with a reason."""


_STATUS = {StageState.FAILED: ExitStatus.FAILED, StageState.BROKEN: ExitStatus.ENVIRONMENT}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed test, and the first line of the reason."""

    test: str
    reason: str


@dataclass(frozen=True, slots=True)
class StageResult:
    """The result of one stage of one cell.

    `log` is a path relative to the report's folder. `again` is the command that runs the stage alone and does not
    change the report. Either is "" if there is none.
    """

    stage: str
    state: StageState
    seconds: float = 0.0
    tests: int = 0
    skipped: int = 0
    failures: tuple[Failure, ...] = ()
    log: str = ""
    again: str = ""


@dataclass(frozen=True, slots=True)
class CellResult:
    """The results of all stages of one cell; `files` maps the names of the built files to their SHA-256."""

    cell: str
    release: str
    stages: tuple[StageResult, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The total time of the stages."""
        return sum(result.seconds for result in self.stages)


@dataclass(frozen=True, slots=True)
class Worse:
    """A regression: a failure that the previous run did not have."""

    cell: str
    stage: str
    what: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A whole run: `written` in ISO 8601, `machine` in words, `seconds` from its start to its end.

    `worse` lists the regressions since the run written at `before`, which is "" without a previous run.
    """

    written: str
    machine: str
    seconds: float
    cells: tuple[CellResult, ...]
    worse: tuple[Worse, ...] = field(default=())
    before: str = ""

    @property
    def exit_status(self) -> ExitStatus:
        """The worst status of all stages; a machine's fault outweighs a package's, as in build-deb."""
        states = [result.state for cell in self.cells for result in cell.stages]
        return max((_STATUS[state] for state in states if state in _STATUS), default=ExitStatus.GOOD)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of all stages, in the order in which they run."""
        return tuple(dict.fromkeys(result.stage for cell in self.cells for result in cell.stages))

    def since(self, before: dict[str, Any]) -> tuple[Worse, ...]:
        """Return the regressions since the run whose `as_json` is `before`; ignores stages that it does not have.

        A regression is a stage that passed before and does not pass now, or a newly failing test in a stage that
        already failed.
        """
        past = {(cell["cell"], stage["stage"]): stage for cell in before.get("cells", []) for stage in cell["stages"]}
        worse = []
        for cell in self.cells:
            for result in cell.stages:
                previous = past.get((cell.cell, result.stage))
                if previous is None or result.state is StageState.PASSED:
                    continue
                known = {failure["test"] for failure in previous["failures"]}
                new = [failure for failure in result.failures if failure.test not in known]
                if new:
                    worse += [Worse(cell.cell, result.stage, f"{fail.test}: {fail.reason}") for fail in new]
                elif previous["state"] == StageState.PASSED:
                    worse.append(Worse(cell.cell, result.stage, f"{result.state}, passed before"))
        return tuple(worse)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Proof:
        """Return the run whose `as_json` is `row`; raises KeyError, TypeError or ValueError if it is malformed."""
        return cls(
            str(row["written"]),
            str(row["machine"]),
            float(row["seconds"]),
            tuple(_cell(cell) for cell in row["cells"]),
            tuple(Worse(worse["cell"], worse["stage"], worse["what"]) for worse in row["worse"]),
            str(row["before"]),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the content of dist/report/report.json (docs/reference/matrix.md); versions only add keys."""
        return {
            "written": self.written,
            "machine": self.machine,
            "seconds": round(self.seconds, 1),
            "before": self.before,
            "worse": [{"cell": worse.cell, "stage": worse.stage, "what": worse.what} for worse in self.worse],
            "cells": [
                {
                    "cell": cell.cell,
                    "release": cell.release,
                    "seconds": round(cell.seconds, 1),
                    "stages": [_stage(result) for result in cell.stages],
                    "files": dict(cell.files),
                }
                for cell in self.cells
            ],
        }

    def junit(self) -> str:
        """Return a JUnit report with a suite for each cell and a case for each stage."""
        kinds = {StageState.FAILED: "failure", StageState.BROKEN: "error", StageState.LEFT_OUT: "skipped"}
        root = ET.Element("testsuites", name="matrix", time=f"{self.seconds:.3f}")
        for cell in self.cells:
            suite = ET.SubElement(root, "testsuite", name=cell.cell, tests=str(len(cell.stages)))
            for result in cell.stages:
                took = f"{result.seconds:.3f}"
                case = ET.SubElement(suite, "testcase", classname=cell.cell, name=result.stage, time=took)
                text = "\n".join(f"{failure.test}: {failure.reason}" for failure in result.failures)
                kind = kinds.get(result.state)
                if kind is not None:
                    ET.SubElement(case, kind, message=text.splitlines()[0] if text else str(result.state)).text = text
            for count, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
                suite.set(count, str(len(suite.findall(f"testcase/{kind}"))))
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def closing_lines(self) -> list[str]:
        """Return a line for each cell with its failures below, and then the regressions."""
        lines = []
        for cell in self.cells:
            states = ", ".join(f"{result.stage} {result.state}" for result in cell.stages)
            lines.append(f"{cell.cell}: {states}; {cell.seconds:.0f} s")
            for result in cell.stages:
                lines += [f"  {result.stage}: {failure.test}: {failure.reason}" for failure in result.failures]
        return lines + [f"worse than in the previous run: {row.cell}, {row.stage}: {row.what}" for row in self.worse]


def _stage(result: StageResult) -> dict[str, Any]:
    return {
        "stage": result.stage,
        "state": str(result.state),
        "seconds": round(result.seconds, 1),
        "tests": result.tests,
        "skipped": result.skipped,
        "failures": [{"test": failure.test, "reason": failure.reason} for failure in result.failures],
        "log": result.log,
        "again": result.again,
    }


def _cell(row: Mapping[str, Any]) -> CellResult:
    files = {str(name): str(sha256) for name, sha256 in row["files"].items()}
    stages = tuple(
        StageResult(
            str(stage["stage"]),
            StageState(stage["state"]),
            float(stage["seconds"]),
            int(stage["tests"]),
            int(stage["skipped"]),
            tuple(Failure(failure["test"], failure["reason"]) for failure in stage["failures"]),
            str(stage["log"]),
            str(stage["again"]),
        )
        for stage in row["stages"]
    )
    return CellResult(str(row["cell"]), str(row["release"]), stages, files)


def merged(proofs: Mapping[str, Proof]) -> Proof:
    """Merge runs that were made in parallel; the keys name the folders of logs/ with the logs of each run.

    The merged run ended with the last of them and took as long as the longest. Raises ValueError without any run, or if
    two runs share a cell, because then neither proves it.
    """
    cells = [_with_logs_in(name, cell) for name, proof in proofs.items() for cell in proof.cells]
    names = [cell.cell for cell in cells]
    if shared := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two reports contain {', '.join(sorted(shared))}")
    return Proof(
        max(proof.written for proof in proofs.values()),
        "; ".join(dict.fromkeys(proof.machine for proof in proofs.values())),
        max(proof.seconds for proof in proofs.values()),
        tuple(cells),
        tuple(worse for proof in proofs.values() for worse in proof.worse),
        max(proof.before for proof in proofs.values()),
    )


def _with_logs_in(folder: str, cell: CellResult) -> CellResult:
    stages = tuple(replace(result, log=result.log.replace("logs/", f"logs/{folder}/", 1)) for result in cell.stages)
    return replace(cell, stages=stages)


def lacking(cell: Mapping[str, Any], stages: Iterable[str]) -> str:
    """Return the first of the stages that a cell of report.json has not passed, with its state; "" if it passed all.

    A stage with nothing to test counts as passed.
    """
    states = {str(stage["stage"]): str(stage["state"]) for stage in cell["stages"]}
    for stage in stages:
        state = states.get(stage, "not run")
        if state not in (StageState.PASSED, StageState.LEFT_OUT):
            return f"{stage} {state}"
    return ""


def read_junit(text: str) -> tuple[int, int, tuple[Failure, ...]]:
    """Return the numbers of all and of skipped tests in pytest's JUnit report, and the failures."""
    cases = list(ET.fromstring(text).iter("testcase"))  # noqa: S314 - our own pytest wrote it
    failures = []
    for case in cases:
        for fault in (*case.findall("failure"), *case.findall("error")):
            reason = (fault.get("message") or "").splitlines() or [fault.tag]
            failures.append(Failure(str(case.get("name")), reason[0]))
    return len(cases), sum(case.find("skipped") is not None for case in cases), tuple(failures)


def state_of(status: ExitStatus, tests: int, skipped: int = 0) -> StageState:
    """Return the state of a stage from its pytest's results; a stage that ran no test proves nothing."""
    if status is ExitStatus.GOOD and tests > 0 and skipped == tests:
        return StageState.LEFT_OUT
    if status is ExitStatus.GOOD:
        return StageState.PASSED if tests else StageState.BROKEN
    return StageState.FAILED if status is ExitStatus.FAILED else StageState.BROKEN
