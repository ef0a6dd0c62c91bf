"""Fixtures for tests of packages: a desk for broken builds, and caches and a daemon for tests of engines."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import docker_daemon
from tests.package.broken_mirror import Mirror
from tests.package.builds import copy_of
from tests.package.caches import CacheMaker, sweep
from tests.package.desk import CHECKOUT, PINNED, Desk, borrow
from tests.package.processes import mounts_below
from tests.serving import serving

from pgpool_deb.boxes import archive
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder on a disk with room for builds; unlike pytest's, it is removed at the end."""
    path = tmp_path_factory.mktemp("faults")
    yield path
    assert not mounts_below(path)
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


@pytest.fixture(scope="session")
def desk(place: Path, cells: dict[str, Any]) -> Desk:
    """Return the desk with good packages of the pinned version in dist/."""
    assert cells
    borrow(Cache.open().path, place / "cache")
    desk = Desk(copy_of(CHECKOUT, place / "project"), place / "cache")
    desk.run(*PINNED).succeeds("built")
    assert any(name.endswith(".deb") for name in desk.packages())
    return desk


@pytest.fixture
def rootless(desk: Desk, place: Path) -> Iterator[Desk]:
    """Return the desk with a cache that has no root."""
    cache = place / "rootless"
    cache.mkdir()
    for name in ("compilers", "sources"):
        (cache / name).symlink_to(desk.cache / name)
    yield replace(desk, cache=cache)
    subprocess.run(["rm", "-rf", "--one-file-system", str(cache)], check=True)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """Return the machine's own mirror behind a relay that fails as `faults` says."""
    with serving(Mirror(archive.find_archive(None).mirror)) as server:
        yield server
        server.closing.set()


@pytest.fixture(scope="module")
def one_release(project: Project) -> Release:
    """Use only the stable release, because engines do not differ between releases."""
    return ReleaseTable.load(project.releases).stable


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[docker_daemon.Daemon | None]:
    """Start a daemon, and make it the current one, if none answers; otherwise yield None."""
    if docker_daemon.answers():
        yield None
        return
    install = not request.config.getoption("--no-install")
    with docker_daemon.running(install=install) as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.host)
        yield daemon


@pytest.fixture(scope="module")
def new_cache(daemon: docker_daemon.Daemon | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheMaker]:
    maker = CacheMaker(tmp_path_factory, [])
    yield maker
    for cache in maker.made:
        sweep(cache)
