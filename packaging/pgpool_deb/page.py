"""The matrix's report for people: a table in Markdown, and one static page for screens and for paper.

The page has no address outside of its folder, and no script.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .proof import Proof, StageResult, State

TEMPLATE = Path(__file__).with_name("page.html.j2")
MARKS = {State.PASSED: "\N{CHECK MARK}", State.FAILED: "\N{BALLOT X}", State.BROKEN: "!", State.LEFT_OUT: "\N{EN DASH}"}
"""What stands before the word of a state, for who does not tell the colours apart."""
MEANINGS = {
    State.PASSED: "",
    State.FAILED: "a package is at fault",
    State.BROKEN: "the machine is, or no test was run: nothing is known about the package",
    State.LEFT_OUT: "there is nothing to try",
}


def html(proof: Proof) -> str:
    """Return the page; all that tests said is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "moment": moment, "tests": tests, "without": str.removeprefix}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        proof=proof,
        verdict=verdict(proof),
        worst=next((state for state in (State.FAILED, State.BROKEN) if _count(proof, state)), State.PASSED),
        counts={state: count for state in State if (count := _count(proof, state))},
        marks=MARKS,
        meanings=MEANINGS,
        failed=[(cell, one) for cell in proof.cells for one in cell.stages if one.failures],
        logs={(cell.cell, one.stage): one.log for cell in proof.cells for one in cell.stages},
    )


def table(proof: Proof) -> str:
    """Return the run as Markdown, to be kept: when, on what, how long, and the state and time of every stage."""
    lines = [
        f"{moment(proof.written)}, {proof.machine}, {duration(proof.seconds)}: {verdict(proof)}",
        "",
        f"| cell | {' | '.join(proof.stages)} | together |",
        f"|---|{'---|' * len(proof.stages)}---|",
    ]
    for cell in proof.cells:
        found = {one.stage: one for one in cell.stages}
        told = [_told(found[stage]) if stage in found else "" for stage in proof.stages]
        lines.append(f"| {cell.cell} | {' | '.join(told)} | {duration(cell.seconds)} |")
    return "\n".join(lines) + "\n"


def _told(one: StageResult) -> str:
    return f"{one.state}, {duration(one.seconds)}" if one.seconds else str(one.state)


def verdict(proof: Proof) -> str:
    """Return the whole run in a word or two: `all good`, `2 failed`, `2 failed, 1 broken`."""
    bad = [f"{count} {state}" for state in (State.FAILED, State.BROKEN) if (count := _count(proof, state))]
    return ", ".join(bad) or "all good"


def _count(proof: Proof, state: State) -> int:
    return sum(one.state is state for cell in proof.cells for one in cell.stages)


def tests(one: StageResult) -> str:
    """Return how the tests of a stage went: `59 tests, 2 skipped`, `3 of 8 tests failed`."""
    failed = len({failure.test for failure in one.failures})
    told = f"{failed} of {one.tests} tests failed" if failed else f"{one.tests} tests"
    return f"{told}, {one.skipped} skipped" if one.skipped else told


def moment(written: str) -> str:
    """Return a time in ISO 8601 and UTC as people write it, to the minute."""
    return f"{written[:16].replace('T', ' ')} UTC"


def duration(seconds: float) -> str:
    """Return `8 s`, `3 min 20 s` or `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
