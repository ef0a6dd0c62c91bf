"""Builds spread over two docker daemons of this machine give the same bytes, even if one of them dies."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import docker_daemon
from tests.package.builds import copy_of, same_files, started, until_it_compiles
from tests.package.caches import over_users_roots

from pgpool_deb.boxes.docker_box import IMAGE, LABEL, DockerEngine
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project

pytestmark = pytest.mark.thorough
RELEASES = ("bookworm", "trixie")
NAMES = ("farm1", "farm2")


@dataclass(frozen=True, slots=True)
class Shop:
    """A copy of the checkout whose builds run on `daemons`, which are docker contexts by name."""

    checkout: Path
    cache: Cache
    daemons: dict[str, docker_daemon.Daemon]

    def start(self) -> subprocess.Popen[str]:
        words = ("--release", ",".join(RELEASES), "--engine", "docker", "--endpoint", ",".join(NAMES))
        return started(self.checkout, self.cache, *words)

    def cells(self) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = json.loads((self.checkout / "dist" / "summary.json").read_text())["cells"]
        return result

    def endpoints(self) -> set[str]:
        """Return the endpoints of the last run."""
        return {name for cell in self.cells() for name in cell["endpoints"].values()}

    def files(self) -> dict[str, str]:
        return same_files(self.checkout / "dist", RELEASES)

    def boxes(self) -> list[str]:
        """Return the remaining boxes on all endpoints that answer."""
        left = []
        for name in NAMES:
            engine = DockerEngine.connect(self.cache, name)
            result = engine.client.api.containers(all=True, filters={"label": f"{LABEL}.box"})
            left += [box["Names"][0] for box in result]
            engine.close()
        return left


@pytest.fixture(scope="module")
def shop(request: pytest.FixtureRequest, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    place = tmp_path_factory.mktemp("endpoints")
    copy_of(project.path, place / "checkout")
    (place / "cache").mkdir()
    cache = over_users_roots(place / "cache")
    install = not request.config.getoption("--no-install")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(place / "docker"))
        patch.delenv("DOCKER_HOST", raising=False)
        patch.delenv("DOCKER_CONTEXT", raising=False)
        daemons = {name: stack.enter_context(docker_daemon.running(install=install)) for name in NAMES}
        for name, daemon in daemons.items():
            words = ["docker", "context", "create", name, "--docker", f"host={daemon.host}"]
            subprocess.run(words, check=True, capture_output=True)
        yield Shop(place / "checkout", cache, daemons)


@pytest.fixture(scope="module")
def elsewhere(project: Project, cells: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Build the same checkout without endpoints, and return its files."""
    if not set(RELEASES) <= set(cells):
        pytest.skip(f"it compares {' and '.join(RELEASES)}")
    return same_files(project.dist, RELEASES)


def test_both_endpoints_build_and_the_files_are_the_same(shop: Shop, elsewhere: dict[str, str]) -> None:
    with shop.start() as process:
        output, _ = process.communicate()
    assert process.returncode == ExitStatus.GOOD, output
    assert shop.endpoints() == set(NAMES), output
    assert shop.files() == elsewhere
    assert shop.boxes() == []
    for name in NAMES:
        engine = DockerEngine.connect(shop.cache, name)
        assert engine.client.api.images(IMAGE), "it has roots of its own"
        engine.close()


def test_the_other_endpoint_takes_over_the_builds_of_one_that_dies(shop: Shop, elsewhere: dict[str, str]) -> None:
    shutil.rmtree(shop.cache.path / "results", ignore_errors=True)
    with shop.start() as process:
        before = until_it_compiles(process)
        shop.daemons["farm1"].kill()
        after, _ = process.communicate()
    output = before + after
    shop.daemons["farm1"].start()
    assert process.returncode == ExitStatus.GOOD, output
    assert "farm1 gets no more builds; other endpoints take over: the docker engine no longer answers" in output
    assert [cell["state"] for cell in shop.cells()] == ["built", "built"]
    assert shop.files() == elsewhere
    assert shop.boxes() == []


def test_a_silent_endpoint_is_left_out_and_without_any_the_environment_failed(
    shop: Shop, elsewhere: dict[str, str]
) -> None:
    shutil.rmtree(shop.cache.path / "results", ignore_errors=True)
    for name in NAMES:
        shop.daemons[name].stop()
    with shop.start() as process:
        output, _ = process.communicate()
    assert process.returncode == ExitStatus.ENVIRONMENT, output
    assert f"no docker engine answers at {shop.daemons['farm1'].host}" in output
    assert shop.files() == elsewhere, "dist/ still has the last good packages"
    shop.daemons["farm2"].start()
    with shop.start() as process:
        output, _ = process.communicate()
    assert process.returncode == ExitStatus.GOOD, output
    assert f"warning: no docker engine answers at {shop.daemons['farm1'].host}" in output
    assert shop.endpoints() == {"farm2"}
    assert shop.files() == elsewhere
    shop.daemons["farm1"].start()
