"""Shared by all levels: the releases under test, and the distinction of a broken machine from a broken package."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.built import Built, build, built
from tests.chroot import Chroot
from tests.clean_root import fetched

from pgpool_deb.boxes import archive
from pgpool_deb.boxes.roots import Root, Roots
from pgpool_deb.builds import plan
from pgpool_deb.ground import namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable, machine_release
from pgpool_deb.runs.testing import MACHINE_FAILED

PROJECT = Project(Path(__file__).parents[1])
MACHINE = "machine failed"
"""The property in the report of a test that a MachineError ended."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgpool-II")
    group.addoption("--releases", default="", help="Debian releases to test, joined by commas")
    group.addoption("--brief", action="store_true", help="leave out what takes minutes; fewer repetitions")
    group.addoption("--pairs", default=3, type=int, help="benches: how often each side of a comparison is run")
    group.addoption("--runs", default=500, type=int, help="runs of apt beside publishes, of a bench's case, or drills")
    group.addoption("--cases", default="", help="bench failover: the cases to run, joined by commas; all by default")
    group.addoption("--seed", default=1, type=int, help="the drill's first seed; further runs count up")
    group.addoption("--mode", default="streaming_replication", help="the drill: the mode of its cluster")
    group.addoption("--every-call", action="store_true", help="kill a publish at each call, also where it only reads")
    group.addoption("--schedules", default=20_000, type=int, help="how many schedules the simulation level runs")
    group.addoption("--first-seed", default=0, type=int, help="the seed of its first schedule")
    group.addoption("--schedule", default="", help="run only this schedule, as a failure printed it")
    group.addoption("--no-install", action="store_true", help="install no missing Debian packages on this machine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `release` once for each release under test."""
    marked = {str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")}
    if "release" not in metafunc.fixturenames or "release" in marked:
        return
    releases = releases_under_test(metafunc.config)
    metafunc.parametrize("release", releases, ids=lambda release: str(release.name), scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked `thorough`, which take minutes, if --brief is set (by testing.py, without --release)."""
    if config.getoption("--brief"):
        left = [item for item in items if item.get_closest_marker("thorough")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


def pytest_collection_finish() -> None:
    """Let later garbage collections ignore the collected tests and the imported modules."""
    gc.freeze()
    gc.enable()


def releases_under_test(config: pytest.Config) -> tuple[Release, ...]:
    names = [name for name in config.getoption("--releases").split(",") if name]
    return ReleaseTable.load(PROJECT.releases).select(names, machine_release())


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # collection creates thousands of objects, and nearly all of them stay
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist sends its reports to the main process
        config.pluginmanager.register(MachineErrors())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, MachineError):
        report.user_properties.append((MACHINE, str(call.excinfo.value)))
    return report


class MachineErrors:
    """Set the exit status: a machine's fault outweighs a package's, as in build-deb."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.found += [str(text) for name, text in report.user_properties if name == MACHINE]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.found:
            session.exitstatus = MACHINE_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in dict.fromkeys(self.found):
            terminalreporter.write_line(f"the machine failed: {line}", red=True)


@pytest.fixture(scope="session")
def project() -> Project:
    """This checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def cells(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The cells of the releases under test, built in one run of build-deb."""
    install = not request.config.getoption("--no-install")
    return build(PROJECT, releases_under_test(request.config), install=install)


@pytest.fixture(scope="session")
def packages(release: Release, cells: dict[str, dict[str, Any]]) -> Built:
    """The packages of the release."""
    return built(PROJECT, release, cells[release.name])


@pytest.fixture(scope="session")
def roots() -> Roots:
    """The store of clean roots, shared with package builds."""
    return Roots(Cache.open(), plan.machine_architecture(), lambda: archive.find_archive(None))


@pytest.fixture(scope="session")
def systems() -> Iterator[Path]:
    """A folder for systems under test, on the file system of their roots."""
    boxes = Cache.open().folder("boxes")
    for left in boxes.glob("test-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():  # left by a killed run
            namespaces.remove(left)
    place = Path(tempfile.mkdtemp(prefix=f"test-{os.getpid()}-", dir=boxes))
    place.chmod(0o755)
    yield place
    namespaces.remove(place)


@pytest.fixture(scope="session")
def clean(release: Release, packages: Built, roots: Roots, systems: Path) -> Root:
    """The release's own clean root, with the required packages below /var/cache/apt."""
    root = roots.obtain(release, (), Runner(systems / "clean.log"))
    return fetched(root, systems / f"clean-{release.name}", packages)


@pytest.fixture(scope="module")
def on(packages: Built, systems: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[Root], Chroot]]:
    """Makes systems over a root, with our packages in /dist. They are deleted after the module's tests."""
    made: list[Chroot] = []

    def make(root: Root) -> Chroot:
        place = systems / f"{request.node.name.replace('/', '-')}-{packages.release.name}-{len(made)}"
        made.append(Chroot(root, place, ((packages.folder, "/dist"),)))
        return made[-1]

    yield make
    for chroot in made:
        chroot.remove()
