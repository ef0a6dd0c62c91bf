"""What a run of the matrix proved, cell by cell and stage by stage, and what got worse since the run before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree as ET

from .errors import ExitStatus


class State(StrEnum):
    """How a stage of a cell ended."""

    PASSED = "passed"
    FAILED = "failed"
    """A package is at fault."""
    BROKEN = "broken"
    """The machine is: nothing is known about the package."""
    LEFT_OUT = "left out"
    """There is nothing to try: an earlier stage left nothing, or every test says why it does not concern the cell."""


_STATUS = {State.FAILED: ExitStatus.FAILED, State.BROKEN: ExitStatus.ENVIRONMENT}


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed, and the first line of why."""

    test: str
    reason: str


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage of one cell.

    `log` is a path as seen from the report's folder, `again` the command that tries the stage alone and leaves the
    report as it is; "" where there is none.
    """

    stage: str
    state: State
    seconds: float = 0.0
    tests: int = 0
    skipped: int = 0
    failures: tuple[Failure, ...] = ()
    log: str = ""
    again: str = ""


@dataclass(frozen=True, slots=True)
class CellResult:
    """All stages of one cell; `files` are those that were built, by name with their SHA-256."""

    cell: str
    release: str
    stages: tuple[StageResult, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What the stages took together."""
        return sum(one.seconds for one in self.stages)


@dataclass(frozen=True, slots=True)
class Worse:
    """Something that was good in the run before, or was not there to be bad."""

    cell: str
    stage: str
    what: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A whole run: `written` in ISO 8601, `machine` in words, `seconds` from its begin to its end.

    `worse` is as compared with the run that was written `before`, "" where there is none.
    """

    written: str
    machine: str
    seconds: float
    cells: tuple[CellResult, ...]
    worse: tuple[Worse, ...] = field(default=())
    before: str = ""

    @property
    def exit_status(self) -> ExitStatus:
        """The machine's faults weigh more than a package's, as in build-deb."""
        states = [one.state for cell in self.cells for one in cell.stages]
        return max((_STATUS[state] for state in states if state in _STATUS), default=ExitStatus.GOOD)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of all stages, in the order in which they are tried."""
        return tuple(dict.fromkeys(one.stage for cell in self.cells for one in cell.stages))

    def since(self, before: dict[str, Any]) -> tuple[Worse, ...]:
        """Return what got worse since the run whose `as_json` is `before`; a run without a like counts for nothing.

        That is a stage that passed and does not, and in a stage that had failed already a test that had not.
        """
        past = {(cell["cell"], one["stage"]): one for cell in before.get("cells", []) for one in cell["stages"]}
        found = []
        for cell in self.cells:
            for one in cell.stages:
                was = past.get((cell.cell, one.stage))
                if was is None or one.state is State.PASSED:
                    continue
                known = {failure["test"] for failure in was["failures"]}
                new = [failure for failure in one.failures if failure.test not in known]
                if new:
                    found += [Worse(cell.cell, one.stage, f"{fail.test}: {fail.reason}") for fail in new]
                elif was["state"] == State.PASSED:
                    found.append(Worse(cell.cell, one.stage, f"{one.state}, and had passed"))
        return tuple(found)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Proof:
        """Return the run whose `as_json` this is; raises KeyError, TypeError or ValueError where it is none."""
        return cls(
            str(told["written"]),
            str(told["machine"]),
            float(told["seconds"]),
            tuple(_cell(cell) for cell in told["cells"]),
            tuple(Worse(one["cell"], one["stage"], one["what"]) for one in told["worse"]),
            str(told["before"]),
        )

    def as_json(self) -> dict[str, Any]:
        """Return dist/report/report.json (docs/reference/matrix.md); keys are only ever added."""
        return {
            "written": self.written,
            "machine": self.machine,
            "seconds": round(self.seconds, 1),
            "before": self.before,
            "worse": [{"cell": one.cell, "stage": one.stage, "what": one.what} for one in self.worse],
            "cells": [
                {
                    "cell": cell.cell,
                    "release": cell.release,
                    "seconds": round(cell.seconds, 1),
                    "stages": [_stage(one) for one in cell.stages],
                    "files": dict(cell.files),
                }
                for cell in self.cells
            ],
        }

    def junit(self) -> str:
        """Return one JUnit report: a suite for each cell, a case for each stage."""
        root = ET.Element("testsuites", name="matrix", time=f"{self.seconds:.3f}")
        for cell in self.cells:
            suite = ET.SubElement(root, "testsuite", name=cell.cell, tests=str(len(cell.stages)))
            for one in cell.stages:
                case = ET.SubElement(suite, "testcase", classname=cell.cell, name=one.stage, time=f"{one.seconds:.3f}")
                why = "\n".join(f"{failure.test}: {failure.reason}" for failure in one.failures)
                kind = {State.FAILED: "failure", State.BROKEN: "error", State.LEFT_OUT: "skipped"}.get(one.state)
                if kind is not None:
                    ET.SubElement(case, kind, message=why.splitlines()[0] if why else str(one.state)).text = why
            for count, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
                suite.set(count, str(len(suite.findall(f"testcase/{kind}"))))
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def closing_lines(self) -> list[str]:
        """Return one line a cell, below it what failed, and last what got worse."""
        lines = []
        for cell in self.cells:
            told = ", ".join(f"{one.stage} {one.state}" for one in cell.stages)
            lines.append(f"{cell.cell}: {told}; {cell.seconds:.0f} s")
            for one in cell.stages:
                lines += [f"  {one.stage}: {failure.test}: {failure.reason}" for failure in one.failures]
        return lines + [f"worse than in the run before: {one.cell}, {one.stage}: {one.what}" for one in self.worse]


def _stage(one: StageResult) -> dict[str, Any]:
    return {
        "stage": one.stage,
        "state": str(one.state),
        "seconds": round(one.seconds, 1),
        "tests": one.tests,
        "skipped": one.skipped,
        "failures": [{"test": failure.test, "reason": failure.reason} for failure in one.failures],
        "log": one.log,
        "again": one.again,
    }


def _cell(told: Mapping[str, Any]) -> CellResult:
    files = {str(name): str(sha256) for name, sha256 in told["files"].items()}
    stages = tuple(
        StageResult(
            str(one["stage"]),
            State(one["state"]),
            float(one["seconds"]),
            int(one["tests"]),
            int(one["skipped"]),
            tuple(Failure(failure["test"], failure["reason"]) for failure in one["failures"]),
            str(one["log"]),
            str(one["again"]),
        )
        for one in told["stages"]
    )
    return CellResult(str(told["cell"]), str(told["release"]), stages, files)


def merged(proofs: Mapping[str, Proof]) -> Proof:
    """Return one run of several that were made side by side, each by the name of a folder of logs/ that has its logs.

    It ended with the last of them and took as long as the longest. Raises ValueError without any, or where two of them
    have a cell in common: neither is the proof then.
    """
    cells = [_with_logs_in(name, cell) for name, proof in proofs.items() for cell in proof.cells]
    names = [cell.cell for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two reports have {', '.join(sorted(twice))}")
    return Proof(
        max(proof.written for proof in proofs.values()),
        "; ".join(dict.fromkeys(proof.machine for proof in proofs.values())),
        max(proof.seconds for proof in proofs.values()),
        tuple(cells),
        tuple(one for proof in proofs.values() for one in proof.worse),
        max(proof.before for proof in proofs.values()),
    )


def _with_logs_in(folder: str, cell: CellResult) -> CellResult:
    stages = tuple(replace(one, log=one.log.replace("logs/", f"logs/{folder}/", 1)) for one in cell.stages)
    return replace(cell, stages=stages)


def lacking(cell: Mapping[str, Any], stages: Iterable[str]) -> str:
    """Return which of the stages a cell of report.json has not passed, the first with its state; "" where none.

    A stage in which there was nothing to try has passed.
    """
    states = {str(stage["stage"]): str(stage["state"]) for stage in cell["stages"]}
    for stage in stages:
        state = states.get(stage, "not tried")
        if state not in (State.PASSED, State.LEFT_OUT):
            return f"{stage} {state}"
    return ""


def read_junit(text: str) -> tuple[int, int, tuple[Failure, ...]]:
    """Return how many tests pytest's JUnit report has, how many of them were skipped, and those that failed."""
    cases = list(ET.fromstring(text).iter("testcase"))  # noqa: S314 - written by our own pytest
    failures = []
    for case in cases:
        for fault in (*case.findall("failure"), *case.findall("error")):
            reason = (fault.get("message") or "").splitlines() or [fault.tag]
            failures.append(Failure(str(case.get("name")), reason[0]))
    return len(cases), sum(case.find("skipped") is not None for case in cases), tuple(failures)


def state_of(status: ExitStatus, tests: int, skipped: int = 0) -> State:
    """Return the state of a stage whose pytest ended so; one that ran no test has proved nothing."""
    if status is ExitStatus.GOOD and tests > 0 and skipped == tests:
        return State.LEFT_OUT
    if status is ExitStatus.GOOD:
        return State.PASSED if tests else State.BROKEN
    return State.FAILED if status is ExitStatus.FAILED else State.BROKEN
