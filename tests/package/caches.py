"""Caches for tests of engines, over the user's own roots and sources, and what docker has of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.package.desk import CHECKOUT

from pgpool_deb import docker_box
from pgpool_deb.cache import Cache
from pgpool_deb.docker_box import DockerEngine
from pgpool_deb.project import Project
from pgpool_deb.releases import ReleaseTable


def over_users_roots(place: Path) -> Cache:
    """Make a cache in a folder without results and compiled files; its roots and sources are the user's own."""
    users, cache = Cache.open(), Cache(place)
    for folder in ("roots", "apt", "sources"):
        (place / folder).symlink_to(users.folder(folder))
    for release in ReleaseTable.load(Project(CHECKOUT).releases).releases:
        (cache.folder("locks") / f"root-{release.name}").symlink_to(users.folder("locks") / f"root-{release.name}")
    return cache


@dataclass(frozen=True, slots=True)
class CacheMaker:
    """Makes caches without results and compiled files, over the user's own roots and sources."""

    factory: pytest.TempPathFactory
    made: list[Cache]

    def __call__(self, name: str) -> Cache:
        cache = over_users_roots(self.factory.mktemp(name))
        self.made.append(cache)
        return cache


def of_cache(engine: DockerEngine) -> dict[str, str]:
    """Return the filter for what docker has of the engine's cache."""
    return {"label": f"{docker_box.LABEL}.cache={engine.identity}"}


def sweep(cache: Cache) -> None:
    """Remove what docker has of a cache that is no more; images are of the user's roots and stay."""
    engine = DockerEngine.reachable(cache)
    if engine is None:
        return
    for container in engine.client.api.containers(all=True, filters=of_cache(engine)):
        engine.client.api.remove_container(container["Id"], force=True)
    for volume in engine.client.volumes.list(filters=of_cache(engine)):
        volume.remove()
    engine.close()


def boxes_of(engine: DockerEngine) -> list[str]:
    """Return the names of the containers that docker has of the engine's cache."""
    found = engine.client.api.containers(all=True, filters=of_cache(engine))
    return sorted(container["Names"][0].lstrip("/") for container in found)
