"""A build fails with one clear error, keeps its evidence, and puts only complete cells into dist/."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.builds.shop import (
    STALL,
    VERSION,
    BuildingEngine,
    ReadyRoots,
    cell,
    over,
    package,
    shop,
)

from pgpool_deb.boxes.box import Box
from pgpool_deb.boxes.roots import Root
from pgpool_deb.builds.results import Dist
from pgpool_deb.builds.workshop import INTERRUPTED, BuildStage, BuildState, DiskFullError, Outcome
from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner, Stopped
from pgpool_deb.ground.errors import ExitStatus, MachineError, PackageError, UsageError
from pgpool_deb.runs.small_packages import upload

SOURCE, COMPILE, PACKAGE = "dpkg-source: info: building pgpool2", "   debian/rules override_dh_auto_build", "   dh_prep"
PROGRESS = (SOURCE, COMPILE, "cc -c main.c", PACKAGE)


def failing(*lines: str) -> CommandFailed:
    return CommandFailed(["recipe"], 2, lines)


def failed(tmp_path: Path, *, engine: BuildingEngine | None = None, roots: ReadyRoots | None = None) -> Outcome:
    """Return the outcome of a build that fails, after checking what every failure guarantees."""
    workshop, notes = shop(tmp_path, *([engine] if engine else []), roots=roots)
    built = workshop.build(cell())
    assert built.state is BuildState.FAILED
    assert notes.outcomes == [built.last]
    assert built.files == {}
    assert built.log == workshop.log(package())
    assert not (tmp_path / "dist" / "trixie").exists()
    return built.last


def test_a_build_goes_through_its_stages_in_order_and_fills_dist(tmp_path: Path) -> None:
    engine = BuildingEngine(PROGRESS)
    workshop, notes = shop(tmp_path, engine)
    built = workshop.build(cell())
    assert built.state is BuildState.BUILT
    assert notes.stages == ["root", "source", "compile", "package", "check"]
    assert engine.did == ["put pgpool2 recipe", "build pgpool2", "remove"]
    folder = tmp_path / "dist" / "trixie"
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == set(built.files)
    assert "cc -c main.c" in (folder / "pgpool2.log").read_text()
    assert built.log == folder / "pgpool2.log"


def test_files_that_the_changes_does_not_name_are_not_kept(tmp_path: Path) -> None:
    def leave(folder: Path, source: str) -> None:
        upload(folder, VERSION, source=source)
        (folder / "core").write_text("")

    built = shop(tmp_path, BuildingEngine(leave=leave))[0].build(cell())
    assert built.state is BuildState.BUILT
    assert "core" not in built.files


def test_only_the_changed_packages_of_a_cell_are_built(tmp_path: Path) -> None:
    shop(tmp_path)[0].build(cell())
    engine = BuildingEngine()
    workshop, _ = shop(tmp_path, engine)
    both = cell(package(), package("pgpool2-cluster", name="trixie-cluster"))
    assert workshop.unchanged(both) is None
    built = workshop.build(both)
    assert [outcome.state for outcome in built.outcomes] == [BuildState.UNCHANGED, BuildState.BUILT]
    assert "build pgpool2" not in engine.did
    assert "build pgpool2-cluster" in engine.did
    again = workshop.unchanged(both)
    assert again is not None
    assert (again.state, again.files) == (BuildState.UNCHANGED, built.files)


def test_packages_removed_from_dist_come_back_without_a_build(tmp_path: Path) -> None:
    workshop, _ = shop(tmp_path)
    built = workshop.build(cell())
    for name in built.files:
        (tmp_path / "dist" / "trixie" / name).unlink()
    assert workshop.unchanged(cell()) is not None
    assert all((tmp_path / "dist" / "trixie" / name).is_file() for name in built.files)


def test_packages_after_a_failed_one_are_not_built(tmp_path: Path) -> None:
    engine = BuildingEngine(fault=failing("it failed"))
    workshop, _ = shop(tmp_path, engine)
    built = workshop.build(cell(package(), package("pgpool2-cluster", name="trixie-cluster")))
    assert [outcome.package.source for outcome in built.outcomes] == ["pgpool2"]
    assert "build pgpool2-cluster" not in engine.did


def test_a_dist_that_cannot_be_written_fails_the_cell_and_loses_no_build(tmp_path: Path) -> None:
    workshop, _ = shop(tmp_path)
    (tmp_path / "file").write_text("")
    built = over(workshop, dist=Dist(tmp_path / "file")).build(cell())
    assert (built.state, built.last.stage) == (BuildState.FAILED, BuildStage.CHECK)
    assert isinstance(built.last.error, MachineError)
    assert "cannot be written" in built.last.error.message
    assert built.log == workshop.log(package()), "dist/ has no log to read"
    assert workshop.unchanged(cell()) is not None, "another dist/ needs no build"


def test_the_first_error_of_the_compiler_is_the_reason_and_the_box_is_kept(tmp_path: Path) -> None:
    lines = [SOURCE, "main.c:7: error: expected ';'", "main.c:9: error: more", "make: *** [main.o] Error 1"]
    engine = BuildingEngine(lines, failing(*lines))
    outcome = failed(tmp_path, engine=engine)
    assert isinstance(outcome.error, PackageError)
    assert outcome.error.message == "main.c:7: error: expected ';'"
    assert "shell command" in outcome.error.hint
    assert (outcome.stage, outcome.shell) == (BuildStage.SOURCE, ("enter", "pgpool2"))
    assert "remove" not in engine.did


@pytest.mark.parametrize(
    ("lines", "reason"),
    [(["something odd", "", "  "], "something odd"), ([], "recipe ended with status 2")],
    ids=("last line", "silent"),
)
def test_without_an_error_message_the_last_line_or_the_status_is_the_reason(
    tmp_path: Path, lines: list[str], reason: str
) -> None:
    error = failed(tmp_path, engine=BuildingEngine(lines, failing(*lines))).error
    assert isinstance(error, PackageError)
    assert error.message == reason


def test_a_silent_build_names_its_stage_and_the_option_that_gives_it_more_time(tmp_path: Path) -> None:
    outcome = failed(tmp_path, engine=BuildingEngine(PROGRESS, CommandStalled(["recipe"], -1, [])))
    assert isinstance(outcome.error, MachineError)
    assert outcome.error.message == f"package: the build printed nothing for {STALL:.0f} s and was stopped"
    assert "--stall" in outcome.error.hint


def no_space(_folder: Path, _source: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.deb")


def quota(_folder: Path, _source: str) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize(
    "engine",
    [
        BuildingEngine([SOURCE], failing("cc1: error: write: No space left on device")),
        BuildingEngine(leave=no_space),
        BuildingEngine(leave=quota),
    ],
    ids=("in the box", "on our disk", "over quota"),
)
def test_a_full_disk_is_the_machines_fault_and_its_box_is_removed(tmp_path: Path, engine: BuildingEngine) -> None:
    engine.did.clear()
    outcome = failed(tmp_path, engine=engine)
    assert isinstance(outcome.error, DiskFullError)
    assert "PGPOOL_DEB_CACHE" in outcome.error.hint
    assert (outcome.shell, engine.did[-1]) == ((), "remove")


def unreadable(_folder: Path, _source: str) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/build/a.deb")


def nameless(_folder: Path, _source: str) -> None:
    raise OSError([("from", "to", "broken")])


@pytest.mark.parametrize(
    ("leave", "message"),
    [(unreadable, "/build/a.deb: Permission denied"), (nameless, "[('from', 'to', 'broken')]")],
)
def test_a_file_operation_that_fails_names_the_file(
    tmp_path: Path, leave: Callable[[Path, str], None], message: str
) -> None:
    outcome = failed(tmp_path, engine=BuildingEngine(leave=leave))
    assert isinstance(outcome.error, MachineError)
    assert outcome.error.message == message
    assert outcome.error.exit_status is ExitStatus.ENVIRONMENT
    assert outcome.stage is BuildStage.CHECK


def two_uploads(folder: Path, source: str) -> None:
    upload(folder, VERSION, source=source)
    upload(folder, VERSION, source="other")


@pytest.mark.parametrize("leave", [lambda folder, source: None, two_uploads], ids=("none", "two"))
def test_a_build_that_leaves_no_single_changes_is_the_packages_fault(
    tmp_path: Path, leave: Callable[[Path, str], None]
) -> None:
    outcome = failed(tmp_path, engine=BuildingEngine(leave=leave))
    assert isinstance(outcome.error, PackageError)
    assert outcome.error.message == "the build left no .changes file"
    assert outcome.error.hint == f"read {outcome.log}"


@pytest.mark.parametrize("fault", [Stopped(), UsageError("no such endpoint", hint="name another")])
def test_a_build_that_gets_no_root_fails_before_any_box(tmp_path: Path, fault: Exception) -> None:
    engine = BuildingEngine()
    outcome = failed(tmp_path, engine=engine, roots=ReadyRoots(old=True, fault=fault))
    assert outcome.error is (INTERRUPTED if isinstance(fault, Stopped) else fault)
    assert (outcome.stage, outcome.shell, engine.did) == (BuildStage.ROOT, (), [])


class DeadEngine(BuildingEngine):
    """An engine that cannot make a box."""

    def box(self, root: Root, name: str, runner: Runner, trust: str = "") -> Box:
        raise MachineError("the daemon is gone", hint="start it")


def test_an_engine_that_cannot_make_a_box_is_left_and_noted_in_the_log(tmp_path: Path) -> None:
    engines = [DeadEngine(place="dead1"), DeadEngine(place="dead2"), BuildingEngine(place="good")]
    workshop, _ = shop(tmp_path, *engines)
    for number in range(3):  # the name of a build decides which engine it tries first
        built = workshop.build(cell(package(name=f"build{number}", rules=f"{number}".encode())))
        assert (built.state, built.last.endpoint) == (BuildState.BUILT, "good")
    logs = "".join(path.read_text() for path in sorted((tmp_path / "cache" / "logs").iterdir()))
    assert logs.count("failed: the daemon is gone") == 2, "each is tried once"


def test_an_explanation_says_whether_and_why_a_package_would_be_built(tmp_path: Path) -> None:
    workshop, _ = shop(tmp_path)
    assert workshop.explain(package()) == ["will be built: it has not been built before"]
    workshop.build(cell())
    count = len(package().inputs(ReadyRoots().packages))
    assert workshop.explain(package()) == [f"unchanged: all {count} inputs are the same"]
    assert workshop.explain(package(rules=b"other")) == ["will be built: debian/rules changed"]
    newer = ReadyRoots(packages=("gcc=15", "libpq-dev=17"))
    assert over(workshop, roots=newer).explain(package()) == ["will be built: package gcc changed from 14 to 15"]
    (old,) = over(workshop, roots=ReadyRoots(old=True)).explain(package())
    assert old.startswith("will be built: its builder root is missing")
    (workshop.results.folder(package().inputs(ReadyRoots().packages)) / "files.json").unlink()
    assert workshop.explain(package()) == ["will be built: the cache no longer has its files"]
