"""A run of build-deb builds what changed, reports it, and remembers what the next run needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.builds.shop import BuildingEngine, ReadyRoots, cell, over, package, shop
from tests.unit.upstream.tarballs import CHECKOUT

from pgpool_deb.boxes import archive, machine
from pgpool_deb.boxes.archive import DebianArchive
from pgpool_deb.builds.farm import Farm
from pgpool_deb.builds.plan import BuildRequest, Cell
from pgpool_deb.builds.workshop import Workshop
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, Stop, Stopped
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.packages import patches
from pgpool_deb.packages.patches import Fit
from pgpool_deb.runs import build_deb
from pgpool_deb.upstream.pins import Advisory, Pin, Pins
from pgpool_deb.upstream.sources import Source

NAME = package().name
CHECKOUT_PROJECT = Project(CHECKOUT)
FAILURE = CommandFailed(["recipe"], 2, ["it failed"])


@dataclass(slots=True)
class Checkout:
    """Runs of build-deb in one checkout and cache; `events` holds the installed tools and the builds, in order."""

    path: Path
    cells: tuple[Cell, ...] = field(default_factory=lambda: (cell(),))
    engine: BuildingEngine = field(default_factory=BuildingEngine)
    roots: ReadyRoots = field(default_factory=ReadyRoots)
    connect: Callable[[], Any] | None = None
    events: list[str] = field(default_factory=list)

    def workshop(self, _project: Project, _request: BuildRequest, _cache: Cache, watcher: Any, stop: Stop) -> Workshop:
        made = over(shop(self.path, self.engine, roots=self.roots)[0], watcher=watcher, stop=stop)
        return over(made, farm=Farm(self.connect, print)) if self.connect else made

    def run(self, **options: Any) -> ExitStatus:
        return build_deb.run(Project(self.path), BuildRequest(**options))

    @property
    def box(self) -> Path:
        """The record of the box of a failed build."""
        return self.path / "cache" / "boxes" / f"{NAME}.json"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout(tmp_path)
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build_deb, "_cells", lambda *_, **__: made.cells)
    monkeypatch.setattr(build_deb, "_workshop", made.workshop)
    monkeypatch.setattr(machine, "require", lambda *_, install, **__: made.events.append(f"install: {install}"))
    return made


def test_a_run_reports_its_packages_and_the_next_run_needs_no_tools(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkout.run(install=False) is ExitStatus.GOOD
    assert checkout.events == ["install: False"]
    assert f"1 packages in {checkout.path / 'dist' / 'trixie'}" in capsys.readouterr().out.splitlines()[-1]
    assert json.loads((checkout.path / "cache" / "history.json").read_text()).keys() == {NAME}
    assert checkout.run() is ExitStatus.GOOD
    assert checkout.events == ["install: False"]
    summary = json.loads((checkout.path / "dist" / "summary.json").read_text())
    assert [row["state"] for row in summary["cells"]] == ["unchanged"]
    assert (checkout.path / "dist" / "junit.xml").is_file()


def test_a_failed_build_can_be_entered_until_it_succeeds(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _program, words: entered.append(words))
    checkout.engine.fault = FAILURE
    assert checkout.run() is ExitStatus.FAILED
    build_deb.shell(NAME)
    assert entered == [["enter", "pgpool2"]]
    assert not (checkout.path / "cache" / "history.json").exists(), (
        "a failed build says nothing about the next one's time"
    )
    checkout.engine.fault = None
    assert checkout.run() is ExitStatus.GOOD
    assert not checkout.box.exists()


def test_an_interrupted_run_says_how_to_go_on_and_keeps_the_box_of_an_earlier_failure(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout.engine.fault = FAILURE
    checkout.run()
    checkout.roots.fault = Stopped()
    assert checkout.run() is ExitStatus.ENVIRONMENT
    assert capsys.readouterr().err.splitlines() == ["interrupted", "hint: run the same command again to continue"]
    assert checkout.box.exists()


def test_a_wrong_endpoint_is_reported_before_any_root_is_made(checkout: Checkout) -> None:
    def connect() -> Any:
        raise UsageError("docker context 'farm1' does not exist", hint="docker context ls")

    checkout.connect = connect
    checkout.roots.fault = AssertionError("a root was made")
    with pytest.raises(UsageError, match="'farm1' does not exist"):
        checkout.run(endpoints=("farm1",))
    assert not (checkout.path / "dist" / "summary.json").exists()


def test_a_dist_that_cannot_be_written_is_reported_before_any_build(checkout: Checkout) -> None:
    (checkout.path / "dist").write_text("")
    with pytest.raises(MachineError, match="packages cannot be written"):
        checkout.run()
    assert (checkout.events, checkout.engine.did) == ([], [])


@pytest.mark.parametrize(
    ("failed", "known"), [((), "no failed build is recorded"), (("b", "a"), "failed builds: a, b")]
)
def test_a_shell_of_an_unknown_build_lists_the_failed_ones(
    checkout: Checkout, failed: tuple[str, ...], known: str
) -> None:
    checkout.box.parent.mkdir(parents=True)
    for name in failed:
        checkout.box.with_name(f"{name}.json").write_text("[]")
    with pytest.raises(UsageError, match="'c' is not a failed build") as raised:
        build_deb.shell("c")
    assert raised.value.hint == known


# -- the request and its source ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"engine": "podman"}, "unknown engine: podman", "one of auto, docker, chroot"),
        ({"stall": 0}, "--stall and --jobs take whole numbers above 0", "./invoke --help build-deb"),
        ({"jobs": 0}, "--stall and --jobs take whole numbers above 0", "./invoke --help build-deb"),
        ({"source": Path("x"), "pgpool": "4.6.1"}, "--pgpool and --source exclude each other", "omit --pgpool"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_fetched(
    tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as raised:
        build_deb._cells(CHECKOUT_PROJECT, BuildRequest(**options), Cache(tmp_path))
    assert raised.value.message == message
    assert hint in raised.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions to the pins, which know 4.6.1 and choose 4.7.3 by default."""
    questions: list[str] = []

    def obtain(_pins: Pins, version: str, mirror: str, *_: object) -> str:
        questions.append(f"obtain {version} from {mirror}")
        return version

    def default_version(*_: object) -> str:
        questions.append("default")
        return "4.7.3"

    monkeypatch.setattr(Pins, "obtain", obtain)
    monkeypatch.setattr(Pins, "default_version", default_version)
    return questions


PINS = Pins(Path("sources.toml"), (), (Pin("4.7.3", "cd", 1, 0), Pin("4.6.1", "ab", 1, 0)), ())


def test_a_named_version_is_obtained_and_otherwise_the_default(asked: list[str], tmp_path: Path) -> None:
    mirror = "http://mirror/debian"
    build_deb._source(PINS, BuildRequest(pgpool="4.6.1", mirror=mirror), Cache(tmp_path))
    build_deb._source(PINS, BuildRequest(mirror=mirror), Cache(tmp_path))
    assert asked == [f"obtain 4.6.1 from {mirror}", "default", f"obtain 4.7.3 from {mirror}"]


def test_a_version_that_is_not_pinned_needs_no_mirror(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "find_archive", lambda _mirror: asked.append("mirror"))
    with pytest.raises(UsageError, match=r"4\.9\.9 is not pinned"):
        build_deb._source(PINS, BuildRequest(pgpool="4.9.9"), Cache(tmp_path))
    assert asked == []


def source(version: str, sha256: str = "ef") -> Source:
    return Source(version, Path("/none.tar.gz"), "gz", sha256, True, 0, "pinned", False)


FAULT = Advisory(("CVE-1", "CVE-2"), "a summary", "4.7.3")


@pytest.mark.parametrize(
    ("fixed", "newer", "lines"),
    [
        (set(), (), ["warning: pgpool-II 4.7.2 has known advisories, fixed in 4.7.3: CVE-1, CVE-2 (a summary)"]),
        (
            {"CVE-1"},
            (Pin("4.7.3", "cd", 1, 0, ("one",)),),
            [
                "warning: pgpool-II 4.7.2 has known advisories, fixed in 4.7.3: CVE-2 (a summary)",
                "hint: --pgpool 4.7.3, if it can be downloaded, builds a version without them",
            ],
        ),
        ({"CVE-1", "CVE-2"}, (Pin("4.7.3", "cd", 1, 0),), []),
    ],
    ids=("no better version", "one patched", "all patched"),
)
def test_advisories_are_reported_unless_our_patches_fix_them(
    capsys: pytest.CaptureFixture[str], fixed: set[str], newer: tuple[Pin, ...], lines: list[str]
) -> None:
    pins = Pins(Path("sources.toml"), (), (*newer, Pin("4.7.2", "ab", 1, 0)), (FAULT,))
    build_deb._warn_of_advisories(pins, source("4.7.2"), fixed)
    assert capsys.readouterr().out.splitlines() == lines


def test_a_better_version_that_has_not_passed_the_tests_is_named_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    pins = Pins(Path("sources.toml"), (), (Pin("4.7.3", "cd", 1, 0),), (FAULT,))
    build_deb._warn_of_advisories(pins, source("4.7.2"), ())
    assert capsys.readouterr().out.endswith(", but it has not passed the tests of this project\n")


def test_a_patch_that_the_source_contains_is_reported_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = patches.chosen(CHECKOUT_PROJECT.templates("pgpool2"), "4.6.1")[0]
    monkeypatch.setattr(machine, "require", lambda *_, **__: None)
    monkeypatch.setattr(patches, "fit", lambda *_: Fit(upstream=(first,)))
    pins = Pins(Path("sources.toml"), (), (Pin("4.6.1", "ef", 1, 0, ("another",)),), ())
    build_deb._fit(CHECKOUT_PROJECT, pins, source("4.6.1"), BuildRequest(strict=True), Cache(tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        "warning: pgpool-II 4.6.1 was proved with other patches",
        f"pgpool-II 4.6.1 already contains {first.name}.patch",
    ]


@pytest.mark.parametrize(
    ("security", "lines"),
    [("http://x/security", 0), (None, 1)],
)
def test_a_machine_without_a_security_archive_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], security: str | None, lines: int
) -> None:
    monkeypatch.setattr(archive, "find_archive", lambda _mirror: DebianArchive("http://x/debian", security))
    assert build_deb._archive(BuildRequest()).mirror == "http://x/debian"
    output = capsys.readouterr().out.splitlines()
    assert len(output) == lines
    assert all("no security archive is known" in line for line in output)
