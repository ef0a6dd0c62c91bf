"""Both engines give the same bytes: twice in a row, cold and warm, and after an engine was down."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import docker_daemon
from tests.package.builds import copy_of, same_files, started, until_it_compiles
from tests.package.caches import CacheMaker, boxes_of, of_cache

from pgpool_deb.boxes.docker_box import DockerEngine
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release


@pytest.fixture(scope="module")
def checkout(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy this checkout, so that the test has its own dist/ and files that do not change."""
    return copy_of(project.path, tmp_path_factory.mktemp("copy") / "checkout")


@dataclass(frozen=True, slots=True)
class Shop:
    """Builds packages of one release in named places."""

    checkout: Path
    release: Release

    def command(self, cache: Cache, engine: str) -> subprocess.Popen[str]:
        """Return the command that runs build-deb with its own cache."""
        return started(self.checkout, cache, "--release", self.release.name, "--engine", engine)

    def build(self, cache: Cache, engine: str) -> dict[str, str]:
        """Build, and return name to SHA-256 of the files that every build must reproduce."""
        with self.command(cache, engine) as process:
            output, _ = process.communicate()
        assert process.returncode == ExitStatus.GOOD, output
        assert "built" in output
        return self.in_dist()

    def in_dist(self) -> dict[str, str]:
        return same_files(self.checkout / "dist", [self.release.name])


@pytest.fixture(scope="module")
def shop(checkout: Path, one_release: Release) -> Shop:
    return Shop(checkout, one_release)


@dataclass(frozen=True, slots=True)
class Place:
    """A cache, and the files of the first build in it."""

    cache: Cache
    cold: dict[str, str]

    def forget_results(self) -> None:
        """Make the next run build again with the compiler cache and kept files."""
        shutil.rmtree(self.cache.path / "results")


@pytest.fixture(scope="module")
def by_chroot(shop: Shop, new_cache: CacheMaker) -> Place:
    cache = new_cache("chroot")
    return Place(cache, shop.build(cache, "chroot"))


@pytest.fixture(scope="module")
def by_docker(shop: Shop, new_cache: CacheMaker) -> Place:
    cache = new_cache("docker")
    return Place(cache, shop.build(cache, "docker"))


@pytest.mark.thorough
def test_two_builds_in_a_row_make_the_same_files(shop: Shop, by_chroot: Place, new_cache: CacheMaker) -> None:
    assert len(by_chroot.cold) >= 9
    assert sum(name.startswith("pgpool2-cluster_") for name in by_chroot.cold) == 3
    assert shop.build(new_cache("again"), "chroot") == by_chroot.cold


@pytest.mark.thorough
def test_both_engines_make_the_same_files(by_chroot: Place, by_docker: Place) -> None:
    assert by_docker.cold == by_chroot.cold


@pytest.mark.thorough
def test_a_warm_build_makes_the_same_files(shop: Shop, by_chroot: Place) -> None:
    by_chroot.forget_results()
    assert shop.build(by_chroot.cache, "chroot") == by_chroot.cold


@pytest.mark.thorough
def test_a_build_whose_box_is_stopped_is_the_machines_fault(shop: Shop, by_docker: Place) -> None:
    by_docker.forget_results()
    output = interrupted(shop, by_docker, stop_box)
    assert "the box was stopped from outside" in output
    assert shop.in_dist() == by_docker.cold


@pytest.mark.thorough
def test_a_build_whose_engine_dies_is_the_machines_fault_and_continues_later(
    shop: Shop, by_docker: Place, daemon: docker_daemon.Daemon | None
) -> None:
    shutil.rmtree(by_docker.cache.path / "results", ignore_errors=True)
    if daemon is not None:  # a daemon that was already running is not this test's
        output = interrupted(shop, by_docker, lambda _cache: daemon.kill())
        assert "the docker engine no longer answers" in output
        assert shop.in_dist() == by_docker.cold
        with shop.command(by_docker.cache, "docker") as process:
            output, _ = process.communicate()
        assert process.returncode == ExitStatus.ENVIRONMENT
        assert "no docker engine answers" in output
        daemon.start()
    assert shop.build(by_docker.cache, "docker") == by_docker.cold
    engine = DockerEngine.connect(by_docker.cache)
    assert boxes_of(engine) == []
    engine.close()


def interrupted(shop: Shop, place: Place, interrupt: Callable[[Cache], None]) -> str:
    """Interrupt a build while it compiles, check its status and summary, and return its output."""
    with shop.command(place.cache, "docker") as process:
        before = until_it_compiles(process)
        interrupt(place.cache)
        after, _ = process.communicate(timeout=60)
    output = before + after
    assert process.returncode == ExitStatus.ENVIRONMENT, output
    assert "hint:" in output
    (cell,) = json.loads((shop.checkout / "dist" / "summary.json").read_text())["cells"]
    assert (cell["state"], cell["stage"]) == ("failed", "compile")
    return output


def stop_box(cache: Cache) -> None:
    engine = DockerEngine.connect(cache)
    (result,) = engine.client.api.containers(filters=of_cache(engine))
    engine.client.api.kill(result["Id"])
    engine.close()
