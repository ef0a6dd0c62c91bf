"""Adopt the settings of the primary that a new standby needs: without them, the copy would not start.

A base backup does not include /etc, so the standby keeps its own configuration files. This module stores the adopted
values in the record; `apply` renders them from there (keep.py). They stay when the node becomes the primary.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..configuration.rendering import keep
from ..decision.facts import matching
from ..definition.cluster import Node
from ..definition.key import Role
from ..ground import log, paths, plain
from ..ground.connection import connect
from ..ground.errors import ClusterError, OperationError
from ..machine import units
from ..machine.server import Instance
from ..node.node import Here
from ..postgresql import libpq
from ..postgresql import postgresql as pg

LIBRARIES = "shared_preload_libraries"
_QUERY_SECONDS = 2.0
SLOTS, LEVEL = "max_replication_slots", "wal_level"
NAMES = (*matching.CONTROL, SLOTS, LEVEL, LIBRARIES)


@dataclass(frozen=True, slots=True)
class Source:
    """The settings of the server that is being copied.

    `needs`: numeric parameters set outside of postgresql.auto.conf, which the copy does not include.
    `libraries`: shared_preload_libraries; `comes_along`: postgresql.auto.conf sets them, so the copy includes them.
    `logical`: wal_level is logical, which subscribers need after a failover as well.
    """

    needs: Mapping[str, int]
    libraries: tuple[str, ...]
    comes_along: bool
    logical: bool = False

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> Source:
        """Read rows of pg_settings: name, value, file. The copy includes the settings made by ALTER SYSTEM."""
        settings = {name: (value, file.endswith("postgresql.auto.conf")) for name, value, file in rows}
        preload, comes_along = settings.pop(LIBRARIES, ("", False))
        level, _ = settings.pop(LEVEL, ("", False))
        needs = {name: int(value) for name, (value, comes) in settings.items() if not comes}
        return cls(needs, tuple(keep.libraries(preload)), comes_along, level == "logical")


def adopt(here: Here, source: Source) -> None:
    """Record and apply the settings of `source` that this node lacks; raises OperationError if a copy cannot start.

    A library that is not installed here is left out, and `check` reports it.
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
    log.info(f"adopting from the primary: {values}")
    try:
        units.control("apply")
    except ClusterError as error:
        log.warning(f"cannot apply the adopted settings: {error}")


_OF_ITSELF = """
SELECT current_setting('shared_preload_libraries'), current_setting('archive_mode'), current_setting('archive_command')
"""


@dataclass(frozen=True, slots=True)
class Lost:
    """The settings that a failover would lose: libraries that only the primary preloads, and its WAL archiving."""

    libraries: tuple[str, ...] = ()
    archive: str = ""

    @classmethod
    def of(cls, primary: tuple[str, str, str], standby: tuple[str, str, str]) -> Lost:
        """Compare the libraries, archive_mode and archive_command of both."""
        there = keep.libraries(standby[0])
        libraries = tuple(name for name in keep.libraries(primary[0]) if name not in there)
        return cls(libraries, primary[2] if primary[1] != "off" and standby[1] == "off" else "")


def lost(here: Here, upstream: Node) -> Lost:
    """Return what a failover to this standby would lose; nothing if one of the servers does not answer."""
    dsn = libpq.conninfo(upstream, Role.RECOVERY, libpq.APPLICATION, database=paths.database())
    try:
        connection: Any = connect(dsn=dsn, seconds=_QUERY_SECONDS, until=time.monotonic() + _QUERY_SECONDS)
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
    """Return the source's values for the parameters that are lower here."""
    low = matching.lower(pg.configured(instance, without_alter_system=True), source.needs)
    raised = {name: least for name, (_, least) in low.items()}
    slots = pg.setting(instance, SLOTS, without_alter_system=True)
    if slots.isdigit() and int(slots) < source.needs.get(SLOTS, 0):
        raised[SLOTS] = source.needs[SLOTS]
    return raised


def missing(instance: Instance, libraries: Iterable[str]) -> list[str]:
    """Return the libraries that are not installed for a server; a library given with a path is not checked."""
    folder = Path(instance.program("postgres")).parents[1] / "lib"
    return [name for name in libraries if "/" not in name and not (folder / f"{name.removesuffix('.so')}.so").exists()]


def _not_installed(names: list[str], why: str) -> OperationError:
    text = ", ".join(names)
    hint = f"apt install the package that contains {text} here"
    return OperationError(f"{text} is not installed here; {why}", hint=hint)
