"""Hosts for this level: images once per release, and one standing cluster for all modules that leave it healthy."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
from tests.built import Built
from tests.cluster.cluster import STREAMING, Cluster
from tests.cluster.drill import Series
from tests.cluster.images import Images, images
from tests.cluster.lab import Lab, lab
from tests.cluster.native import NATIVE_MODES, fill
from tests.host import Host, engine

from pgpool_deb.boxes.roots import Root
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release

NAMES = ("pg1", "pg2", "pg3")
PATIENCE = 25.0
"""Seconds for a cluster to become healthy again after a module; a new cluster takes a minute."""
labs: list[Lab] = []
"""The open lab, for the journals of its hosts after a failed test."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where it need not be brief: every mode of native replication, and ten recoveries; else the first, and two.

    Likewise, the package is configured a hundred times or three times.
    """
    brief = metafunc.config.getoption("--brief")
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", NATIVE_MODES[:1] if brief else NATIVE_MODES, scope="module")
    if "any_mode" in metafunc.fixturenames and not _parametrizes(metafunc, "any_mode"):
        metafunc.parametrize("any_mode", _modes(metafunc) if brief else (STREAMING, *NATIVE_MODES), scope="module")
    if "recovery" in metafunc.fixturenames:
        metafunc.parametrize("recovery", range(2 if brief else 10))
    if "times" in metafunc.fixturenames:
        metafunc.parametrize("times", [3 if brief else 100], scope="module")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order this level's tests by mode within a release, because a cluster of another mode has to be created anew."""
    here = [number for number, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    ordered = sorted((items[number] for number in here), key=_place(items[number] for number in here))
    for number, item in zip(here, ordered, strict=True):
        items[number] = item


def _place(items: Iterable[pytest.Item]) -> Callable[[pytest.Item], tuple[int, int]]:
    """Return the sort key of a test: releases keep their order, and modes follow NATIVE_MODES."""
    releases = list(dict.fromkeys(_parameter(item, "release") for item in items))
    modes = [STREAMING, *NATIVE_MODES]

    def key(item: pytest.Item) -> tuple[int, int]:
        mode = _parameter(item, "mode") or _parameter(item, "any_mode") or STREAMING
        return releases.index(_parameter(item, "release")), modes.index(str(mode))

    return key


def _parameter(item: pytest.Item, name: str) -> object:
    """Return the value of a test's parameter; None if it has no such parameter."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(name) if callspec else None


def _parametrizes(metafunc: pytest.Metafunc, name: str) -> bool:
    """Return whether a test defines the values of this parameter itself."""
    return any(mark.args[0] == name for mark in metafunc.definition.iter_markers("parametrize"))


def _modes(metafunc: pytest.Metafunc) -> tuple[str, ...]:
    """Return the modes for a brief run of a test: those of its mark, otherwise one of each kind."""
    mark = metafunc.definition.get_closest_marker("brief_modes")
    return mark.args if mark else (STREAMING, NATIVE_MODES[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and labs:
        report.sections.append(("journals", labs[-1].journals()))
    return report


@pytest.fixture(scope="session")
def docker_engine(request: pytest.FixtureRequest) -> Iterator[docker.DockerClient]:
    """A docker engine for all hosts."""
    with engine(install=not request.config.getoption("--no-install")) as client:
        yield client


@pytest.fixture(scope="session")
def room(docker_engine: docker.DockerClient) -> Iterator[Lab]:
    """The network of the session."""
    with lab(docker_engine) as opened:
        labs.append(opened)
        yield opened
        labs.remove(opened)


@pytest.fixture(scope="session")
def of_release(
    docker_engine: docker.DockerClient, release: Release, clean: Root, packages: Built, systems: Path
) -> Iterator[Images]:
    """The images of hosts of the release."""
    with images(docker_engine, clean, packages, systems / f"hosts-{release.name}") as made:
        yield made


@dataclass(slots=True)
class Standing:
    """The cluster that stays across modules."""

    room: Lab
    of_release: Images
    cluster: Cluster | None = field(default=None)

    def well(self, mode: str = STREAMING) -> Cluster:
        """Return the standing cluster if it has the mode, is healthy and has pg1 as primary; otherwise a new one."""
        if self.cluster is not None and not (self.cluster.mode == mode and self._is_well(self.cluster)):
            self.clear()
        if self.cluster is None:
            self.cluster = Cluster.of(self.room.boot(self.of_release.prepared, *NAMES), mode)
            self.cluster.deploy()
        return self.cluster

    def clear(self) -> None:
        """Remove the cluster."""
        if self.cluster is not None:
            self.room.remove(self.cluster.hosts)
            self.cluster = None

    def _is_well(self, cluster: Cluster) -> bool:
        try:
            cluster.wait_healthy(PATIENCE)
            if cluster.mode == STREAMING and cluster.primary() != cluster.hosts[0]:
                cluster.hosts[0].run(f"pgpoolctl switchover {NAMES[0]}", seconds=120)
                cluster.wait_healthy()
        except (AssertionError, ValueError, docker.errors.APIError) as error:
            print(f"the cluster that stands is no use any more: {error}")
            return False
        return True


@pytest.fixture(scope="session")
def standing(room: Lab, of_release: Images) -> Iterator[Standing]:
    """One standing cluster per release."""
    stands = Standing(room, of_release)
    yield stands
    stands.clear()


@pytest.fixture(scope="module")
def cluster(standing: Standing) -> Cluster:
    """A healthy cluster of three with pg1 as its primary and a user `app`; other modules may have used it before."""
    return standing.well()


@pytest.fixture(scope="module")
def native(mode: str, standing: Standing) -> Cluster:
    """A healthy cluster of three with the same answers except for the mode, and with tables of `app`."""
    made = standing.well(mode)
    fill(made)
    return made


@pytest.fixture(scope="module")
def pg1(cluster: Cluster) -> Host:
    return cluster.hosts[0]


@pytest.fixture(scope="module")
def pg2(cluster: Cluster) -> Host:
    return cluster.hosts[1]


@pytest.fixture(scope="module")
def pg3(cluster: Cluster) -> Host:
    return cluster.hosts[2]


@pytest.fixture
def series(room: Lab, of_release: Images, project: Project, request: pytest.FixtureRequest) -> Iterator[Series]:
    """Runs of the drill on a cluster of the mode that `--mode` names."""
    made = Series(room, of_release.prepared, request.config.getoption("--mode"), project.dist / "drills")
    yield made
    made.clear()


@pytest.fixture
def pairs(request: pytest.FixtureRequest) -> int:
    """The number of runs for each side of a comparison."""
    return int(request.config.getoption("--pairs"))
