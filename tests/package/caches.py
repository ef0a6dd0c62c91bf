"""Caches for tests of engines, over the user's own roots and sources, and what docker has of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pgpool_deb import docker_box
from pgpool_deb.cache import Cache
from pgpool_deb.docker_box import DockerEngine


def over_users_roots(place: Path) -> Cache:
    """Make a cache in a folder without results and compiled files; its roots and sources are the user's own."""
    users, cache = Cache.open(), Cache(place)
    for folder in ("roots", "apt", "sources"):
        (place / folder).symlink_to(users.folder(folder))
    for release in ("bookworm", "trixie", "forky", "sid"):
        (cache.folder("locks") / f"root-{release}").symlink_to(users.folder("locks") / f"root-{release}")
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


def sweep(cache: Cache) -> None:
    """Remove what docker has of a cache that is no more; images are of the user's roots and stay."""
    engine = DockerEngine.reachable(cache)
    if engine is None:
        return
    mine = {"label": f"{docker_box.LABEL}.cache={engine.identity}"}
    for container in engine.client.api.containers(all=True, filters=mine):
        engine.client.api.remove_container(container["Id"], force=True)
    for volume in engine.client.volumes.list(filters=mine):
        volume.remove()
    engine.close()


def boxes_of(engine: DockerEngine) -> list[str]:
    """Return the names of the containers that docker has of the engine's cache."""
    mine = {"label": f"{docker_box.LABEL}.cache={engine.identity}"}
    return sorted(found["Names"][0].lstrip("/") for found in engine.client.api.containers(all=True, filters=mine))
