"""Caches for tests of engines, with the user's own roots and sources, and docker's objects for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.package.desk import CHECKOUT

from pgpool_deb.boxes import docker_box
from pgpool_deb.boxes.docker_box import DockerEngine
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable


def over_users_roots(place: Path) -> Cache:
    """Make a cache in a folder that shares only the roots and sources of the user's cache."""
    users, cache = Cache.open(), Cache(place)
    for folder in ("roots", "apt", "sources"):
        (place / folder).symlink_to(users.folder(folder))
    for release in ReleaseTable.load(Project(CHECKOUT).releases).releases:
        (cache.folder("locks") / f"root-{release.name}").symlink_to(users.folder("locks") / f"root-{release.name}")
    return cache


@dataclass(frozen=True, slots=True)
class CacheMaker:
    """Makes caches that share only the roots and sources of the user's cache."""

    factory: pytest.TempPathFactory
    made: list[Cache]

    def __call__(self, name: str) -> Cache:
        cache = over_users_roots(self.factory.mktemp(name))
        self.made.append(cache)
        return cache


def of_cache(engine: DockerEngine) -> dict[str, str]:
    """Return the filter for docker's objects of the engine's cache."""
    return {"label": f"{docker_box.LABEL}.cache={engine.identity}"}


def sweep(cache: Cache) -> None:
    """Remove docker's objects of a removed cache, except the images, which belong to the user's roots."""
    engine = DockerEngine.reachable(cache)
    if engine is None:
        return
    for container in engine.client.api.containers(all=True, filters=of_cache(engine)):
        engine.client.api.remove_container(container["Id"], force=True)
    for volume in engine.client.volumes.list(filters=of_cache(engine)):
        volume.remove()
    engine.close()


def boxes_of(engine: DockerEngine) -> list[str]:
    """Return the names of docker's containers for the engine's cache."""
    result = engine.client.api.containers(all=True, filters=of_cache(engine))
    return sorted(container["Names"][0].lstrip("/") for container in result)
