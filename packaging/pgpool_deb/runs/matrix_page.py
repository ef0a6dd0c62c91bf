"""Render the matrix's report for people: a Markdown table, and a static page for screen and print.

The page has no scripts and links to nothing outside its folder.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .proof import Proof, StageResult, StageState

TEMPLATE = Path(__file__).with_name("matrix_page.html.j2")
_BAD = (StageState.FAILED, StageState.BROKEN)
MARKS = {
    StageState.PASSED: "\N{CHECK MARK}",
    StageState.FAILED: "\N{BALLOT X}",
    StageState.BROKEN: "!",
    StageState.LEFT_OUT: "\N{EN DASH}",
}
"""The symbol before the name of each state, for readers who cannot tell the colours apart."""
MEANINGS = {
    StageState.PASSED: "",
    StageState.FAILED: "a package is at fault",
    StageState.BROKEN: "the machine is at fault, or no test ran: this says nothing about the package",
    StageState.LEFT_OUT: "there is nothing to test",
}


def html(proof: Proof) -> str:
    """Return the page; the output of tests is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "moment": moment, "tests": tests, "without": str.removeprefix}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        proof=proof,
        verdict=verdict(proof),
        worst=next((state for state in _BAD if _count(proof, state)), StageState.PASSED),
        counts={state: count for state in StageState if (count := _count(proof, state))},
        marks=MARKS,
        meanings=MEANINGS,
        failed=[(cell, result) for cell in proof.cells for result in cell.stages if result.failures],
        logs={(cell.cell, result.stage): result.log for cell in proof.cells for result in cell.stages},
    )


def table(proof: Proof) -> str:
    """Return the run as Markdown to keep: its date, machine and time, and the state and time of every stage."""
    lines = [
        f"{moment(proof.written)}, {proof.machine}, {duration(proof.seconds)}: {verdict(proof)}",
        "",
        f"| cell | {' | '.join(proof.stages)} | together |",
        f"|---|{'---|' * len(proof.stages)}---|",
    ]
    for cell in proof.cells:
        results = {result.stage: result for result in cell.stages}
        states = [_state_and_time(results[stage]) if stage in results else "" for stage in proof.stages]
        lines.append(f"| {cell.cell} | {' | '.join(states)} | {duration(cell.seconds)} |")
    return "\n".join(lines) + "\n"


def _state_and_time(result: StageResult) -> str:
    return f"{result.state}, {duration(result.seconds)}" if result.seconds else str(result.state)


def verdict(proof: Proof) -> str:
    """Summarise the whole run: `all good`, `2 failed`, or `2 failed, 1 broken`."""
    bad = [f"{count} {state}" for state in _BAD if (count := _count(proof, state))]
    return ", ".join(bad) or "all good"


def _count(proof: Proof, state: StageState) -> int:
    return sum(result.state is state for cell in proof.cells for result in cell.stages)


def tests(result: StageResult) -> str:
    """Summarise the tests of a stage: `59 tests, 2 skipped`, or `3 of 8 tests failed`."""
    failed = len({failure.test for failure in result.failures})
    counts = f"{failed} of {result.tests} tests failed" if failed else f"{result.tests} tests"
    return f"{counts}, {result.skipped} skipped" if result.skipped else counts


def moment(written: str) -> str:
    """Return a time in ISO 8601 and UTC to the minute, as people write it."""
    return f"{written[:16].replace('T', ' ')} UTC"


def duration(seconds: float) -> str:
    """Return `8 s`, `3 min 20 s` or `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
