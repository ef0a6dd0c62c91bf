"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .box import ChrootEngine, Engine
from .cache import Cache
from .errors import MachineError


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


def find_engines(
    name: str, endpoints: Sequence[str], cache: Cache, report: Callable[[str], None]
) -> tuple[Engine, ...]:
    """Return an engine for each of the Docker-API `endpoints`, or the one called `name` where none are named.

    One that cannot be used is reported and left out. Raises MachineError where none can, UsageError for the name of a
    context that there is not.
    """
    if not endpoints:
        return (find_engine(name, cache),)
    from . import docker_box  # noqa: PLC0415 - as above

    found: list[Engine] = []
    failed: list[MachineError] = []
    for endpoint in endpoints:
        try:
            found.append(docker_box.DockerEngine.connect(cache, endpoint))
        except MachineError as error:
            failed.append(error)
    if not found:
        raise failed[0]
    for why in failed:
        report(f"warning: {why.message}; it gets no builds")
    return tuple(found)
