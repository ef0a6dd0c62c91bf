"""What a standby takes over of its primary's configuration, before it is copied: without it, the copy would not start.

Its own configuration is in /etc, where no copy comes. `apply` lays down what the record has (keep.py), and the values
stay when the node becomes the primary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from . import keep, libpq, log, matching, paths, plain, units
from . import postgresql as pg
from .cluster import Node
from .connection import connect
from .errors import ClusterError, OperationError
from .key import Role
from .node import Here
from .server import HOME, Instance

LIBRARIES = "shared_preload_libraries"
_SECONDS = 5.0
SLOTS, LEVEL = "max_replication_slots", "wal_level"
NAMES = (*matching.CONTROL, SLOTS, LEVEL, LIBRARIES)


@dataclass(frozen=True, slots=True)
class Source:
    """The settings of a server that is copied, but for the numbers that come along with its data.

    `comes_along`: so do its libraries. `logical`: subscribers read of it, and go on doing so after a failover.
    """

    needs: Mapping[str, int]
    libraries: tuple[str, ...]
    comes_along: bool
    logical: bool = False

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> Source:
        """Read rows of pg_settings: name, value, file. What ALTER SYSTEM has set comes along with a copy."""
        found = {name: (value, file.endswith("postgresql.auto.conf")) for name, value, file in rows}
        preload, along = found.pop(LIBRARIES, ("", False))
        level, _ = found.pop(LEVEL, ("", False))
        needs = {name: int(value) for name, (value, comes) in found.items() if not comes}
        return cls(needs, tuple(keep.libraries(preload)), along, level == "logical")


def adopt(here: Here, source: Source) -> None:
    """Have laid down what this node lacks of its source's settings; raises OperationError where a copy cannot start.

    A library that is not installed here is left out: `check` names it.
    """
    instance = here.server.instance
    lacking = missing(instance, source.libraries)
    if source.comes_along and lacking:
        raise _not_installed(lacking, "a copy of the primary, which preloads it by ALTER SYSTEM, would not start")
    record = here.record
    needs = dict(record.needs) | _lower(instance, source)
    there = keep.libraries(pg.setting(instance, LIBRARIES))
    more = [name for name in source.libraries if name not in there and name not in lacking and plain.is_parameter(name)]
    libraries = tuple(dict.fromkeys([*record.libraries, *([] if source.comes_along else more)]))
    logical = record.logical or (source.logical and pg.setting(instance, LEVEL) != "logical")
    adopted = record.with_changes(needs=tuple(needs.items()), libraries=libraries, logical=logical)
    if adopted == record:
        return
    here.remember(needs=adopted.needs, libraries=libraries, logical=logical)
    level = ["wal_level = logical"] if logical else []
    values = ", ".join([*(f"{name} = {value}" for name, value in needs.items()), *libraries, *level])
    log.info(f"taking over from the primary: {values}")
    try:
        units.control("apply")
    except ClusterError as error:
        log.warning(f"it could not be laid down: {error}")


_OF_ITSELF = """
SELECT current_setting('shared_preload_libraries'), current_setting('archive_mode'), current_setting('archive_command')
"""


@dataclass(frozen=True, slots=True)
class Lost:
    """What a failover to a standby would lose: libraries that only the primary preloads, and the archive."""

    libraries: tuple[str, ...] = ()
    archive: str = ""

    @classmethod
    def of(cls, primary: tuple[str, str, str], standby: tuple[str, str, str]) -> Lost:
        """Compare the libraries, archive_mode and archive_command of both."""
        there = keep.libraries(standby[0])
        libraries = tuple(name for name in keep.libraries(primary[0]) if name not in there)
        return cls(libraries, primary[2] if primary[1] != "off" and standby[1] == "off" else "")


def lost(here: Here, upstream: Node) -> Lost:
    """Return what a failover to this standby would lose; nothing where one of the servers does not answer."""
    dsn = libpq.conninfo(upstream, Role.RECOVERY, "pgpoolctl", HOME) + f" dbname={paths.database()}"
    try:
        connection: Any = connect(dsn=dsn, seconds=_SECONDS)
        try:
            with connection.cursor() as cursor:
                cursor.execute(_OF_ITSELF)
                primary = cursor.fetchone()
        finally:
            connection.close()
        (standby,) = here.server.query(_OF_ITSELF)
    except psycopg2.Error:
        return Lost()
    return Lost.of(primary, (str(standby[0]), str(standby[1]), str(standby[2])))


def _lower(instance: Instance, source: Source) -> dict[str, int]:
    """Return the source's values of the parameters that would be lower here."""
    low = matching.lower(pg.configured(instance, without_alter_system=True), source.needs)
    found = {name: least for name, (_, least) in low.items()}
    slots = pg.setting(instance, SLOTS, without_alter_system=True)
    if slots.isdigit() and int(slots) < source.needs.get(SLOTS, 0):
        found[SLOTS] = source.needs[SLOTS]
    return found


def missing(instance: Instance, libraries: Iterable[str]) -> list[str]:
    """Return the libraries that are not installed for a server; one with a path of its own is not looked for."""
    folder = Path(instance.program("postgres")).parents[1] / "lib"
    return [name for name in libraries if "/" not in name and not (folder / f"{name.removesuffix('.so')}.so").exists()]


def _not_installed(names: list[str], why: str) -> OperationError:
    text = ", ".join(names)
    return OperationError(f"{text} is not installed here; {why}", hint=f"apt install the package of {text} here")
