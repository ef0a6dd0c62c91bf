"""The engines by name."""

from __future__ import annotations

from .box import ChrootEngine, Engine
from .cache import Cache


def find_engine(name: str, cache: Cache) -> Engine:
    """Return the engine called `name`, one of plan.ENGINES; `auto` takes a reachable Docker-API endpoint, else chroot.

    Raises MachineError where `docker` was asked for and cannot be used.
    """
    if name == "chroot":
        return ChrootEngine(cache)
    from . import docker_box  # noqa: PLC0415 - the SDK is slow to import, and an unchanged run needs no engine

    if name == "docker":
        return docker_box.DockerEngine.connect(cache)
    return docker_box.DockerEngine.reachable(cache) or ChrootEngine(cache)
