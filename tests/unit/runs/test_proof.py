"""The proof of a matrix run: states, regressions, JSON, JUnit, the closing lines, the page and the table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.runs import matrix_page
from pgpool_deb.runs.proof import CellResult, Failure, Proof, StageResult, StageState, Worse, read_junit, state_of

SPITE = Failure("test_<b>bold</b>", 'AssertionError: "<script>alert(1)</script>" & more')
BUILT = StageResult("build", StageState.PASSED, 44.0, 1, log="logs/trixie-build.log")
GOOD = StageResult("install", StageState.PASSED, 75.4, 59, 1, log="logs/trixie-install.log")
BAD = replace(GOOD, state=StageState.FAILED, failures=(SPITE,))
BROKEN = StageResult("cluster", StageState.BROKEN, 3.0, log="logs/trixie-cluster.log")


def proof(*stages: StageResult) -> Proof:
    return Proof(
        "2026-11-23T20:00:00+00:00", "Debian 12, 2 cores", 3700.0, (CellResult("trixie-4.6.1", "trixie", stages),)
    )


def since(now: Proof, before: Proof) -> tuple[Worse, ...]:
    """Return the regressions since a run, which goes through JSON as in a file."""
    return now.since(json.loads(json.dumps(before.as_json())))


@pytest.mark.parametrize(
    ("stages", "status"),
    [
        ((BUILT, GOOD), ExitStatus.GOOD),
        ((BUILT, BAD), ExitStatus.FAILED),
        ((BUILT, BROKEN), ExitStatus.ENVIRONMENT),
        ((BUILT, BAD, BROKEN), ExitStatus.ENVIRONMENT),
        ((BUILT, StageResult("install", StageState.LEFT_OUT)), ExitStatus.GOOD),
    ],
)
def test_a_machines_fault_outweighs_a_packages(stages: tuple[StageResult, ...], status: ExitStatus) -> None:
    assert proof(*stages).exit_status is status


def test_a_stage_that_ran_no_test_proves_nothing() -> None:
    assert state_of(ExitStatus.GOOD, 0) is StageState.BROKEN
    assert state_of(ExitStatus.GOOD, 1) is StageState.PASSED
    assert state_of(ExitStatus.GOOD, 2, 1) is StageState.PASSED
    assert state_of(ExitStatus.GOOD, 2, 2) is StageState.LEFT_OUT
    assert state_of(ExitStatus.FAILED, 1) is StageState.FAILED
    assert state_of(ExitStatus.USAGE, 0) is StageState.BROKEN


def test_a_new_failure_of_a_passed_stage_is_a_regression_test_by_test() -> None:
    (worse,) = since(proof(BUILT, BAD), proof(BUILT, GOOD))
    assert (worse.cell, worse.stage) == ("trixie-4.6.1", "install")
    assert worse.what.startswith("test_<b>bold</b>: AssertionError")


def test_only_new_failures_of_a_failed_stage_are_regressions() -> None:
    assert since(proof(BAD), proof(BAD)) == ()
    other = Failure("test_other", "assert 1 == 2")
    assert [one.what for one in since(proof(replace(BAD, failures=(SPITE, other))), proof(BAD))] == [
        "test_other: assert 1 == 2"
    ]


def test_a_left_out_stage_that_passed_before_is_a_regression() -> None:
    assert [one.what for one in since(proof(BROKEN), proof(replace(BROKEN, state=StageState.PASSED)))] == [
        "broken, passed before"
    ]


def test_new_or_passing_stages_are_not_regressions() -> None:
    assert since(proof(BAD), proof(BUILT)) == ()
    assert since(proof(GOOD), proof(BAD)) == ()
    assert proof(BAD).since({}) == ()


def test_junit_has_a_suite_for_each_cell_and_a_case_for_each_stage() -> None:
    text = proof(BUILT, BAD, BROKEN, StageResult("later", StageState.LEFT_OUT)).junit()
    (suite,) = ET.fromstring(text.encode()).findall("testsuite")  # noqa: S314 - our own
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    assert [case.get("name") for case in suite.findall("testcase")] == ["build", "install", "cluster", "later"]


def test_pytests_junit_is_parsed_with_the_first_line_of_each_reason() -> None:
    text = """<testsuites><testsuite>
    <testcase name="a"/> <testcase name="b"><failure message="assert 1&#10;more"/></testcase>
    <testcase name="c"><error/></testcase> <testcase name="d"><skipped/></testcase>
    </testsuite></testsuites>"""
    assert read_junit(text) == (4, 1, (Failure("b", "assert 1"), Failure("c", "error")))


def test_the_closing_lines_name_failures_and_regressions() -> None:
    now = replace(proof(BUILT, BAD), worse=(Worse("trixie-4.6.1", "install", "it"),))
    lines = now.closing_lines()
    assert lines[0] == "trixie-4.6.1: build passed, install failed; 119 s"
    assert lines[-1] == "worse than in the previous run: trixie-4.6.1, install: it"


class Links(HTMLParser):
    """Collects the links, the anchors and the start tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.names |= {value or "" for name, value in attrs if name == "id"}


WORSE = replace(proof(BUILT, BAD, BROKEN), worse=(Worse("trixie-4.6.1", "install", SPITE.test),))


def test_the_page_links_only_into_its_folder_and_every_anchor_exists() -> None:
    result = Links(matrix_page.html(WORSE))
    files = [link for link in result.links if not link.startswith(("#", "data:"))]
    assert set(files) == {
        "logs/trixie-build.log",
        "logs/trixie-install.log",
        "logs/trixie-cluster.log",
        "report.json",
        "junit.xml",
    }
    assert {link[1:] for link in result.links if link.startswith("#")} <= result.names


def test_the_pages_style_loads_nothing() -> None:
    assert not re.search(r"url\(|@import", matrix_page.html(WORSE))


def test_output_of_tests_is_escaped() -> None:
    text = matrix_page.html(WORSE)
    assert "script" not in Links(text).tags
    assert "b" not in Links(text).tags
    assert "&lt;script&gt;" in text


def test_regressions_come_before_the_matrix() -> None:
    text = matrix_page.html(WORSE)
    assert text.index("Worse than in the previous run") < text.index("<h2>The matrix</h2>")
    assert "Worse than" not in matrix_page.html(proof(BUILT))


def test_the_title_has_the_verdict() -> None:
    assert "<title>all good: " in matrix_page.html(proof(BUILT, GOOD))
    assert "<title>1 failed, 1 broken: " in matrix_page.html(WORSE)


def test_a_state_has_a_symbol_and_a_word() -> None:
    text = re.sub(
        r"<[^>]+>", "", matrix_page.html(proof(BUILT, BAD, BROKEN, StageResult("later", StageState.LEFT_OUT)))
    )
    assert {"\N{CHECK MARK}passed", "\N{BALLOT X}failed", "!broken", "\N{EN DASH}left out"} <= set(text.splitlines())


def test_the_page_names_the_previous_run() -> None:
    before = "2026-11-22T19:30:05+00:00"
    good = proof(GOOD)
    assert "There is no previous run" in matrix_page.html(good)
    assert "Nothing got worse since the previous run, 2026-11-22 19:30 UTC" in matrix_page.html(
        replace(good, before=before)
    )
    assert "2026-11-22 19:30 UTC" in matrix_page.html(replace(WORSE, before=before))


def test_a_failed_stage_has_the_command_that_runs_it_again() -> None:
    again = "./invoke build-deb --release trixie"
    assert again in matrix_page.html(proof(replace(BAD, again=again)))
    assert again not in matrix_page.html(proof(replace(GOOD, again=again)))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (GOOD, "59 tests, 1 skipped"),
        (BAD, "1 of 59 tests failed, 1 skipped"),
        (replace(BAD, skipped=0, failures=(SPITE, SPITE)), "1 of 59 tests failed"),
    ],
)
def test_tests_are_counted_once_each(one: StageResult, text: str) -> None:
    assert matrix_page.tests(one) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert matrix_page.duration(seconds) == text


def test_the_table_has_the_state_and_time_of_every_stage() -> None:
    run = proof(BUILT, GOOD, StageResult("cluster", StageState.LEFT_OUT))
    assert matrix_page.table(run).splitlines() == [
        "2026-11-23 20:00 UTC, Debian 12, 2 cores, 1 h 1 min: all good",
        "",
        "| cell | build | install | cluster | together |",
        "|---|---|---|---|---|",
        "| trixie-4.6.1 | passed, 44 s | passed, 1 min 15 s | left out | 1 min 59 s |",
    ]
