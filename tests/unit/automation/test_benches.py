"""`./invoke bench` refuses unknown names, removes its own scratch folder, and reports how a program failed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import bench_failover
from tests.drill.promises import PROMISES

from pgpool_deb.automation import bench_build, bench_repository, benches, drill
from pgpool_deb.boxes import machine
from pgpool_deb.ground import namespaces
from pgpool_deb.ground.command import CommandFailed
from pgpool_deb.ground.errors import ExitStatus, PackageError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.runs import testing

PROJECT = Project(Path(__file__).parents[3])
MEASURED = ("build", "repository")


class Measurement:
    """A bench that writes a file into its folder, and fails with `fault` if that is set."""

    fault: Exception | None = None
    places: list[Path]

    def __init__(self, _project: Project, place: Path, pairs: int) -> None:
        self.place, self.pairs = place, pairs

    def run(self) -> None:
        self.place.mkdir(exist_ok=True)
        (self.place / "result").write_text(f"{self.pairs} pairs")
        self.places.append(self.place)
        if self.fault:
            raise self.fault


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Measurement]:
    """Replace both benches, and the commands that need other users' files or packages of Debian."""

    class Own(Measurement):
        places: list[Path] = []  # noqa: RUF012 - a new list for each test

    def remove(place: Path) -> None:
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        place.rmdir()

    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench_repository, "RepositoryBench", Own)
    monkeypatch.setattr(bench_build, "BuildBench", Own)
    monkeypatch.setattr(machine, "require", lambda *_, **__: None)
    monkeypatch.setattr(namespaces, "remove", remove)
    return Own


def run(what: str, **options: Any) -> ExitStatus:
    return benches.run(PROJECT, what, **{"pairs": 3, "scratch": None, "releases": None, **options})


@pytest.mark.parametrize(
    ("what", "options", "message", "hint"),
    [
        ("disk", {}, "unknown bench: disk", "one of build, cluster, failover, repository"),
        ("build", {"pairs": 0}, "--pairs 0 is too small", "--pairs takes 1 or more"),
        ("failover", {"runs": 0}, "--runs 0 is too small", "--runs takes 1 or more"),
        ("failover", {"cases": "restart,x"}, "unknown case: 'x'", f"one or more of {','.join(benches.FAILOVERS)}"),
        (
            "failover",
            {"peers": True},
            "--peers is not supported yet",
            "docs/reference/bench.md has the peers' known times",
        ),
        ("cluster", {"mode": "raw"}, "unknown mode: raw", "one of streaming_replication, native_replication"),
    ],
)
def test_a_bench_that_does_not_exist_is_wrong_usage(
    what: str, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as raised:
        run(what, **options)
    assert (raised.value.message, raised.value.hint) == (message, hint)


@pytest.mark.parametrize("what", MEASURED)
def test_a_bench_leaves_nothing_in_the_cache(measured: type[Measurement], what: str, tmp_path: Path) -> None:
    assert run(what) is ExitStatus.GOOD
    (place,) = measured.places
    assert place.is_relative_to(tmp_path / "cache")
    assert list((tmp_path / "cache").glob("bench-*")) == []


@pytest.mark.parametrize("what", MEASURED)
def test_a_scratch_folder_of_the_user_is_kept(measured: type[Measurement], what: str, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    run(what, scratch=tmp_path / "scratch")
    (place,) = measured.places
    assert place.is_relative_to(tmp_path / "scratch")
    assert (place / "result").read_text() == "3 pairs"


@pytest.mark.parametrize("what", MEASURED)
@pytest.mark.parametrize(
    ("lines", "last"), [(["one", "two", " "], "two"), ([], "it printed nothing")], ids=("noisy", "silent")
)
def test_a_program_that_fails_is_named_with_its_last_line_and_leaves_nothing(
    measured: type[Measurement], what: str, lines: list[str], last: str, tmp_path: Path
) -> None:
    measured.fault = CommandFailed(["env", "-i", "x=1", "gpg", "--sign", "a file"], 2, lines)
    with pytest.raises(PackageError) as raised:
        run(what)
    assert raised.value.message == f"-i x=1 gpg --sign 'a file' ended with status 2: {last}"
    assert "--scratch" in raised.value.hint
    assert list((tmp_path / "cache").glob("bench-*")) == []


@pytest.mark.parametrize(
    ("options", "module"),
    [({}, "bench_cluster.py"), ({"mode": "native_replication"}, "bench_native.py")],
    ids=("default", "native"),
)
@pytest.mark.parametrize(
    ("status", "expected"), [(testing.PYTEST_PASSED, ExitStatus.GOOD), (testing.PYTEST_FAILED, ExitStatus.FAILED)]
)
def test_a_cluster_is_measured_by_pytest_for_one_release(  # noqa: PLR0917 - the cases and the doubles
    measured: type[Measurement],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    module: str,
    status: int,
    expected: ExitStatus,
) -> None:
    ran: list[list[str]] = []

    def answer(command: list[str], *, cwd: Path, check: bool) -> subprocess.CompletedProcess[bytes]:
        assert (cwd, check) == (PROJECT.path, False)
        ran.append(command)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", answer)
    assert run("cluster", releases="sid,trixie", **options) is expected
    (command,) = ran
    assert command[-3:] == ["--releases=sid", "--pairs=3", f"tests/cluster/{module}"]
    assert (PROJECT.path / command[-1]).is_file()
    assert measured.places == []


@pytest.fixture
def commands(measured: type[Measurement], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of pytest, which are not run."""
    ran: list[list[str]] = []

    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, testing.PYTEST_PASSED)

    assert measured.places == []
    monkeypatch.setattr(subprocess, "run", answer)
    return ran


def test_failovers_are_measured_by_pytest(commands: list[list[str]]) -> None:
    assert run("failover", releases="sid", runs=2, cases="restart, cut-off") is ExitStatus.GOOD
    assert run("failover", releases="sid") is ExitStatus.GOOD
    brief, whole = commands
    module = "tests/cluster/bench_failover.py"
    assert brief[-4:] == ["--releases=sid", "--runs=2", "--cases=restart,cut-off", module]
    assert whole[-3:-1] == ["--runs=20", f"--cases={','.join(benches.FAILOVERS)}"]
    assert (PROJECT.path / module).is_file()


def test_the_cases_of_failovers_are_those_that_are_measured() -> None:
    assert tuple(bench_failover.CASES) == benches.FAILOVERS


def test_a_drill_counts_seeds_from_the_given_one(commands: list[list[str]]) -> None:
    drill.run(PROJECT, seed="7", runs=3, releases="sid", mode="snapshot_isolation")
    module = "tests/cluster/drill_cluster.py"
    assert commands[0][-5:] == ["--releases=sid", "--seed=7", "--runs=3", "--mode=snapshot_isolation", module]
    assert (PROJECT.path / module).is_file()


def test_a_drill_without_a_seed_draws_one(commands: list[list[str]]) -> None:
    for _ in range(2):
        drill.run(PROJECT, seed=None, runs=1, releases="sid", mode="native_replication")
    seeds = [next(word for word in command if word.startswith("--seed=")) for command in commands]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "raw"}, "unknown mode: raw"),
        ({"runs": 0}, "--runs 0 is too small"),
        ({"seed": "-1"}, "--seed '-1' is not a seed"),
        ({"seed": "9" * 19}, f"--seed {'9' * 19!r} is not a seed"),
    ],
    ids=("mode", "runs", "negative", "long"),
)
def test_a_drill_that_cannot_be_run_is_wrong_usage(
    commands: list[list[str]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        drill.run(PROJECT, **{"seed": "1", "runs": 1, "releases": None, "mode": drill.MODES[0], **options})
    assert (raised.value.message, commands) == (message, [])


def test_the_modes_of_the_drill_are_those_with_a_promise() -> None:
    assert set(drill.MODES) == set(PROMISES)
