"""What a standby takes over of its primary's configuration, before it is copied: without it, the copy would not start.

Its own configuration is in /etc, where no copy comes. `apply` lays down what the record has (keep.py), and the values
stay when the node becomes the primary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import keep, matching, plain, units
from . import postgresql as pg
from .errors import ClusterError, OperationError
from .node import Here, log
from .server import Instance

LIBRARIES = "shared_preload_libraries"
NAMES = (*matching.CONTROL, LIBRARIES)


@dataclass(frozen=True, slots=True)
class Source:
    """The settings of a server that is copied, but for the numbers that come along with its data.

    `comes_along`: so do its libraries.
    """

    needs: Mapping[str, int]
    libraries: tuple[str, ...]
    comes_along: bool

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> Source:
        """Read rows of pg_settings: name, value, file. What ALTER SYSTEM has set comes along with a copy."""
        found = {name: (value, file.endswith("postgresql.auto.conf")) for name, value, file in rows}
        preload, along = found.pop(LIBRARIES, ("", False))
        needs = {name: int(value) for name, (value, comes) in found.items() if not comes}
        return cls(needs, tuple(keep.libraries(preload)), along)


def adopt(here: Here, source: Source) -> None:
    """Have laid down what this node lacks of its source's settings; raises OperationError where a copy cannot start.

    A library that is not installed here is left out: `check` names it.
    """
    instance = here.server.instance
    lacking = missing(instance, source.libraries)
    if source.comes_along and lacking:
        raise _not_installed(lacking, "a copy of the primary, which preloads it by ALTER SYSTEM, would not start")
    low = matching.lower(pg.configured(instance, without_alter_system=True), source.needs)
    needs = dict(here.record.needs) | {name: least for name, (_, least) in low.items()}
    there = keep.libraries(pg.setting(instance, LIBRARIES))
    more = [name for name in source.libraries if name not in there and name not in lacking and plain.is_parameter(name)]
    libraries = tuple(dict.fromkeys([*here.record.libraries, *([] if source.comes_along else more)]))
    if (tuple(needs.items()), libraries) == (here.record.needs, here.record.libraries):
        return
    here.remember(needs=tuple(needs.items()), libraries=libraries)
    values = ", ".join([*(f"{name} = {value}" for name, value in needs.items()), *libraries])
    log(f"taking over from the primary: {values}")
    try:
        units.control("apply")
    except ClusterError as error:
        log(f"it could not be laid down: {error}")


def missing(instance: Instance, libraries: Iterable[str]) -> list[str]:
    """Return the libraries that are not installed for a server; one with a path of its own is not looked for."""
    folder = Path(instance.program("postgres")).parents[1] / "lib"
    return [name for name in libraries if "/" not in name and not (folder / f"{name.removesuffix('.so')}.so").exists()]


def _not_installed(names: list[str], why: str) -> OperationError:
    text = ", ".join(names)
    return OperationError(f"{text} is not installed here; {why}", hint=f"apt install the package of {text} here")
