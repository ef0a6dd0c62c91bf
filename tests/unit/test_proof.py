"""What a run of the matrix tells: states, what got worse, JSON, JUnit, the closing lines, the page and the table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from pgpool_deb import page
from pgpool_deb.errors import ExitStatus
from pgpool_deb.proof import CellResult, Failure, Proof, StageResult, State, Worse, read_junit, state_of

SPITE = Failure("test_<b>bold</b>", 'AssertionError: "<script>alert(1)</script>" & more')
BUILT = StageResult("build", State.PASSED, 44.0, 1, log="logs/trixie-build.log")
GOOD = StageResult("install", State.PASSED, 75.4, 59, 1, log="logs/trixie-install.log")
BAD = replace(GOOD, state=State.FAILED, failures=(SPITE,))
BROKEN = StageResult("cluster", State.BROKEN, 3.0, log="logs/trixie-cluster.log")


def proof(*stages: StageResult) -> Proof:
    return Proof(
        "2026-11-23T20:00:00+00:00", "Debian 12, 2 cores", 3700.0, (CellResult("trixie-4.6.1", "trixie", stages),)
    )


def since(now: Proof, before: Proof) -> tuple[Worse, ...]:
    """What got worse since a run that is known by its JSON, as it is read back from a file."""
    return now.since(json.loads(json.dumps(before.as_json())))


@pytest.mark.parametrize(
    ("stages", "status"),
    [
        ((BUILT, GOOD), ExitStatus.GOOD),
        ((BUILT, BAD), ExitStatus.FAILED),
        ((BUILT, BROKEN), ExitStatus.ENVIRONMENT),
        ((BUILT, BAD, BROKEN), ExitStatus.ENVIRONMENT),
        ((BUILT, StageResult("install", State.LEFT_OUT)), ExitStatus.GOOD),
    ],
)
def test_the_machines_faults_weigh_more_than_a_packages(stages: tuple[StageResult, ...], status: ExitStatus) -> None:
    assert proof(*stages).exit_status is status


def test_a_stage_that_ran_no_test_has_proved_nothing() -> None:
    assert state_of(ExitStatus.GOOD, 0) is State.BROKEN
    assert state_of(ExitStatus.GOOD, 1) is State.PASSED
    assert state_of(ExitStatus.GOOD, 2, 1) is State.PASSED
    assert state_of(ExitStatus.GOOD, 2, 2) is State.LEFT_OUT
    assert state_of(ExitStatus.FAILED, 1) is State.FAILED
    assert state_of(ExitStatus.USAGE, 0) is State.BROKEN


def test_what_had_passed_and_fails_now_is_worse_test_by_test() -> None:
    (worse,) = since(proof(BUILT, BAD), proof(BUILT, GOOD))
    assert (worse.cell, worse.stage) == ("trixie-4.6.1", "install")
    assert worse.what.startswith("test_<b>bold</b>: AssertionError")


def test_what_had_failed_is_not_worse_but_another_test_beside_it_is() -> None:
    assert since(proof(BAD), proof(BAD)) == ()
    other = Failure("test_other", "assert 1 == 2")
    assert [one.what for one in since(proof(replace(BAD, failures=(SPITE, other))), proof(BAD))] == [
        "test_other: assert 1 == 2"
    ]


def test_a_stage_that_could_not_be_tried_is_worse_than_one_that_passed() -> None:
    assert [one.what for one in since(proof(BROKEN), proof(replace(BROKEN, state=State.PASSED)))] == [
        "broken, and had passed"
    ]


def test_what_is_new_or_good_again_is_not_worse() -> None:
    assert since(proof(BAD), proof(BUILT)) == ()
    assert since(proof(GOOD), proof(BAD)) == ()
    assert proof(BAD).since({}) == ()


def test_junit_has_a_suite_a_cell_and_a_case_a_stage() -> None:
    text = proof(BUILT, BAD, BROKEN, StageResult("later", State.LEFT_OUT)).junit()
    (suite,) = ET.fromstring(text.encode()).findall("testsuite")  # noqa: S314 - our own
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    assert [case.get("name") for case in suite.findall("testcase")] == ["build", "install", "cluster", "later"]


def test_pytests_junit_is_read_with_the_first_line_of_each_reason() -> None:
    text = """<testsuites><testsuite>
    <testcase name="a"/> <testcase name="b"><failure message="assert 1&#10;more"/></testcase>
    <testcase name="c"><error/></testcase> <testcase name="d"><skipped/></testcase>
    </testsuite></testsuites>"""
    assert read_junit(text) == (4, 1, (Failure("b", "assert 1"), Failure("c", "error")))


def test_the_closing_lines_say_what_failed_and_what_got_worse() -> None:
    now = replace(proof(BUILT, BAD), worse=(Worse("trixie-4.6.1", "install", "it"),))
    lines = now.closing_lines()
    assert lines[0] == "trixie-4.6.1: build passed, install failed; 119 s"
    assert lines[-1] == "worse than in the run before: trixie-4.6.1, install: it"


class Links(HTMLParser):
    """Collects where a page points to, what it names, and every start tag."""

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


def test_the_page_points_to_its_own_folder_only_and_every_anchor_is_there() -> None:
    found = Links(page.html(WORSE))
    files = [link for link in found.links if not link.startswith(("#", "data:"))]
    assert set(files) == {
        "logs/trixie-build.log", "logs/trixie-install.log", "logs/trixie-cluster.log", "report.json", "junit.xml",
    }  # fmt: skip
    assert {link[1:] for link in found.links if link.startswith("#")} <= found.names


def test_the_pages_style_takes_nothing_from_elsewhere() -> None:
    assert not re.search(r"url\(|@import", page.html(WORSE))


def test_what_tests_say_is_text_and_no_markup() -> None:
    text = page.html(WORSE)
    assert "script" not in Links(text).tags
    assert "b" not in Links(text).tags
    assert "&lt;script&gt;" in text


def test_what_got_worse_stands_before_the_matrix() -> None:
    text = page.html(WORSE)
    assert text.index("Worse than in the run before") < text.index("<h2>The matrix</h2>")
    assert "Worse than" not in page.html(proof(BUILT))


def test_the_title_tells_how_it_went() -> None:
    assert "<title>all good: " in page.html(proof(BUILT, GOOD))
    assert "<title>1 failed, 1 broken: " in page.html(WORSE)


def test_a_state_is_told_by_a_sign_and_a_word() -> None:
    text = re.sub(r"<[^>]+>", "", page.html(proof(BUILT, BAD, BROKEN, StageResult("later", State.LEFT_OUT))))
    assert {"\N{CHECK MARK}passed", "\N{BALLOT X}failed", "!broken", "\N{EN DASH}left out"} <= set(text.splitlines())


def test_the_page_tells_which_run_it_is_compared_with() -> None:
    before = "2026-11-22T19:30:05+00:00"
    good = proof(GOOD)
    assert "There is no run before" in page.html(good)
    assert "Nothing got worse since the run before, 2026-11-22 19:30 UTC" in page.html(replace(good, before=before))
    assert "2026-11-22 19:30 UTC" in page.html(replace(WORSE, before=before))


def test_a_stage_that_failed_has_the_command_that_tries_it_again() -> None:
    again = "./invoke build-deb --release trixie"
    assert again in page.html(proof(replace(BAD, again=again)))
    assert again not in page.html(proof(replace(GOOD, again=again)))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (GOOD, "59 tests, 1 skipped"),
        (BAD, "1 of 59 tests failed, 1 skipped"),
        (replace(BAD, skipped=0, failures=(SPITE, SPITE)), "1 of 59 tests failed"),
    ],
)
def test_tests_are_counted_once_each(one: StageResult, text: str) -> None:
    assert page.tests(one) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert page.duration(seconds) == text


def test_the_table_to_be_kept_has_the_state_and_time_of_every_stage() -> None:
    run = proof(BUILT, GOOD, StageResult("cluster", State.LEFT_OUT))
    assert page.table(run).splitlines() == [
        "2026-11-23 20:00 UTC, Debian 12, 2 cores, 1 h 1 min: all good",
        "",
        "| cell | build | install | cluster | together |",
        "|---|---|---|---|---|",
        "| trixie-4.6.1 | passed, 44 s | passed, 1 min 15 s | left out | 1 min 59 s |",
    ]
