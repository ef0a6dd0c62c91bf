"""Cells are built in parallel, and neither a failure nor Ctrl-C loses a finished one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import pytest
from tests.unit.builds.shop import BuildingEngine, ReadyRoots, cell, package, shop

from pgpool_deb.builds import schedule
from pgpool_deb.builds.plan import Cell
from pgpool_deb.builds.workshop import INTERRUPTED, BuildState, CellOutcome, Workshop
from pgpool_deb.ground.command import CommandFailed


def test_settled_cells_are_those_whose_result_is_known(tmp_path: Path) -> None:
    workshop, notes = shop(tmp_path)
    built, other = cell(), cell(package(rules=b"changed"))
    assert schedule.settled(workshop, [built, other]) == {}
    workshop.build(built)
    notes.outcomes.clear()
    outcomes = schedule.settled(workshop, [built, other])
    assert {one.state for one in outcomes.values()} == {BuildState.UNCHANGED}
    assert list(outcomes) == [built]
    assert notes.outcomes == [outcomes[built].last], "the display shows it"


def test_without_a_current_root_no_cell_is_settled(tmp_path: Path) -> None:
    shop(tmp_path)[0].build(cell())
    assert schedule.settled(shop(tmp_path, roots=ReadyRoots(old=True))[0], [cell()]) == {}


def test_a_failed_cell_stops_no_other(tmp_path: Path) -> None:
    def leave(folder: Path, source: str) -> None:
        if source == "bad":
            raise CommandFailed(["recipe"], 2, ["it failed"])
        BuildingEngine().leave(folder, source)

    bad, good = cell(package("bad", name="bad")), cell(package(name="good"))
    outcomes = schedule.build_all(shop(tmp_path, BuildingEngine(leave=leave))[0], [bad, good], 1)
    assert [outcomes[one].state for one in (bad, good)] == [BuildState.FAILED, BuildState.BUILT]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[BaseException]], None]:
    """Return a function that makes the first wait for builds raise; a cell called `late` builds after that."""
    real_build = Workshop.build

    def build(workshop: Workshop, given: Cell) -> CellOutcome:
        if given.name == "late":
            assert workshop.stop.event.wait(5)
        return real_build(workshop, given)

    def interrupted(reason: type[BaseException]) -> None:
        def wait(_: object) -> None:
            monkeypatch.setattr(schedule, "wait", futures.wait)
            raise reason

        monkeypatch.setattr(schedule, "wait", wait)

    monkeypatch.setattr(Workshop, "build", build)
    return interrupted


def test_ctrl_c_keeps_the_finished_cells_and_fails_the_others(
    tmp_path: Path, interrupted: Callable[[type[BaseException]], None]
) -> None:
    workshop, _ = shop(tmp_path)
    done, late = cell(package(name="done")), cell(package(name="late", rules=b"other"))
    workshop.build(done)
    interrupted(KeyboardInterrupt)
    outcomes = schedule.build_all(workshop, [done, late], 2)
    assert outcomes[done].state is BuildState.UNCHANGED
    assert (outcomes[late].state, outcomes[late].last.error) == (BuildState.FAILED, INTERRUPTED)
    assert outcomes[late].last.shell == (), "an interrupted build is not worth a shell"


def test_any_other_exception_ends_the_builds_and_is_raised(
    tmp_path: Path, interrupted: Callable[[type[BaseException]], None]
) -> None:
    workshop, notes = shop(tmp_path)
    interrupted(MemoryError)
    with pytest.raises(MemoryError):
        schedule.build_all(workshop, [cell(package(name="late"))], 1)
    assert [one.error for one in notes.outcomes] == [INTERRUPTED]
