"""Find engines by name."""

from __future__ import annotations

from collections.abc import Sequence

from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.progress import Report

from .box import ChrootEngine, Engine


def find_engine(name: str, cache: Cache) -> Engine:
    """Return the engine called `name`, one of plan.ENGINES; `auto` is docker if an endpoint is reachable, else chroot.

    Raises MachineError if `name` is docker and no endpoint can be used.
    """
    if name == "chroot":
        return ChrootEngine(cache)
    from . import docker_box  # noqa: PLC0415 - the SDK is slow to import, and an unchanged run needs no engine

    if name == "docker":
        return docker_box.DockerEngine.connect(cache)
    return docker_box.DockerEngine.reachable(cache) or ChrootEngine(cache)


def find_engines(name: str, endpoints: Sequence[str], cache: Cache, report: Report) -> tuple[Engine, ...]:
    """Return an engine for each of the Docker-API `endpoints`, or the one called `name` without endpoints.

    An unusable endpoint is reported and left out. Raises MachineError if no endpoint can be used, UsageError if there
    is no docker context of a name.
    """
    if not endpoints:
        return (find_engine(name, cache),)
    from . import docker_box  # noqa: PLC0415 - as above

    engines: list[Engine] = []
    failed: list[MachineError] = []
    for endpoint in endpoints:
        try:
            engines.append(docker_box.DockerEngine.connect(cache, endpoint))
        except MachineError as error:
            failed.append(error)
    if not engines:
        raise failed[0]
    for failure in failed:
        report(f"warning: {failure.message}; no builds are sent to it")
    return tuple(engines)
