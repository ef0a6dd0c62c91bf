"""Builds are shown as a live table on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.builds.shop import package

from pgpool_deb.builds.history import History
from pgpool_deb.builds.workshop import BuildStage, BuildState, Outcome
from pgpool_deb.runs.display import LiveDisplay, PlainDisplay, display_for

LOG = Path("/cache/logs/trixie.log")


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "history.json")
    made.note("trixie", 61.2)
    return made


def shown(display: LiveDisplay) -> list[str]:
    """Return the lines of the table, without repeated spaces."""
    output = io.StringIO()
    Console(file=output, width=200).print(display._table())
    return [" ".join(line.split()) for line in output.getvalue().splitlines()]


def test_plain_lines_name_the_log_and_the_time_of_the_last_build(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainDisplay(history) as display:
        for stage in (BuildStage.ROOT, BuildStage.SOURCE):
            display.stage(package(name="trixie"), stage, LOG)
        display.ended(Outcome(package(name="trixie"), BuildState.BUILT, 58.04, LOG))
    assert capsys.readouterr().out.splitlines() == [
        f"trixie: started, about 61 s; log: {LOG}",
        "trixie: root",
        "trixie: source",
        "trixie: built after 58.0 s",
    ]


def test_plain_lines_promise_no_time_for_a_first_build(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    PlainDisplay(history).stage(package(name="sid"), BuildStage.ROOT, LOG)
    assert capsys.readouterr().out.startswith(f"sid: started; log: {LOG}\n")


def test_the_table_shows_each_package_from_waiting_to_its_end(history: History) -> None:
    builds = [package(name=name) for name in ("trixie", "sid")]
    display = LiveDisplay(history, builds, Console(file=io.StringIO()))
    assert shown(display) == ["package stage elapsed expected log", "trixie waiting 61 s", "sid waiting"]
    display.stage(builds[0], BuildStage.ROOT, LOG)
    display.stage(builds[0], BuildStage.COMPILE, LOG)
    display.ended(Outcome(builds[1], BuildState.FAILED, 7.4, Path("/sid.log")))
    assert shown(display)[1:] == [f"trixie compile 0 s 61 s {LOG}", "sid failed 7 s /sid.log"]


def test_the_table_counts_from_the_start_of_a_build_and_not_from_the_start_of_the_run(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    build = package(name="trixie")
    display = LiveDisplay(history, [build], Console(file=io.StringIO()))
    for moment, stage in ((150.0, BuildStage.ROOT), (160.0, BuildStage.SOURCE)):
        now[0] = moment
        display.stage(build, stage, LOG)
    now[0] = 165.0
    assert shown(display)[1].startswith("trixie source 15 s")


def test_a_build_that_took_no_time_shows_no_other_time(history: History) -> None:
    display = LiveDisplay(history, [package(name="sid")], Console(file=io.StringIO()))
    display.ended(Outcome(package(name="sid"), BuildState.UNCHANGED, 0.0, LOG))
    assert shown(display)[1] == f"sid unchanged 0 s {LOG}"


def test_the_table_leaves_the_screen_when_the_builds_end(history: History) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True)
    with LiveDisplay(history, [package(name="trixie")], screen) as display:
        assert display._live.is_started
    assert not display._live.is_started


@pytest.mark.parametrize(
    ("terminal", "variables", "kind"),
    [
        (True, {}, LiveDisplay),
        (False, {}, PlainDisplay),
        (True, {"CI": "true"}, PlainDisplay),
        (True, {"TERM": "dumb"}, PlainDisplay),
    ],
    ids=("terminal", "pipe", "CI", "dumb terminal"),
)
def test_only_a_real_terminal_gets_the_table(
    history: History, monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], kind: type
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert type(display_for(history, [package(name="trixie")])) is kind
