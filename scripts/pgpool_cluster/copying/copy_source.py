"""Check the node that is to be copied, and prepare it: before a copy deletes anything, it must be known to work."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..decision.facts import matching
from ..definition.cluster import Node
from ..definition.key import Role
from ..ground import paths
from ..ground.connection import connect
from ..ground.errors import OperationError
from ..node.node import Here
from ..postgresql import libpq, locales
from ..postgresql import postgresql as pg
from ..transport import pulse
from . import adopting, copy_target

_STATEMENT_SECONDS = 1800.0
"""Time limit for a statement on the source, such as CHECKPOINT or the size of its tablespaces."""
_SETTINGS = "SELECT name, setting, coalesce(sourcefile, '') FROM pg_settings WHERE name = ANY(%s)"
_SLOT = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s"
_CREATE_SLOT = "SELECT pg_create_physical_replication_slot(%s, true)"
_SPACES = "SELECT pg_tablespace_location(oid), pg_tablespace_size(oid) FROM pg_tablespace"


def prepare(here: Here, upstream: Node, *, checkpoint: bool = False) -> dict[Path, int]:
    """Check that a copy of the source would work, create its slot, and return its tablespaces with sizes in bytes.

    `checkpoint`: before 16, pg_rewind finds the source's new timeline in the control file only after a checkpoint
    (pg_rewind(1)). Raises ClusterError if the source cannot be copied.
    """
    pulse.beat(pulse.PROGRESS_SECONDS)
    data = here.server.instance.data
    dsn = database_dsn(upstream, Role.RECOVERY)
    try:
        connection: Any = connect(dsn=dsn, seconds=_STATEMENT_SECONDS)
        try:
            with connection.cursor() as cursor:
                _check_major(here, upstream, connection.server_version // 10000)
                cursor.execute(_SETTINGS, (list(adopting.NAMES),))
                source = adopting.Source.of(cursor.fetchall())
                adopting.adopt(here, source)
                _check_settings(here, upstream, source)
                _check_locales(upstream, cursor)
                if checkpoint:
                    cursor.execute("CHECKPOINT")
                _create_slot(cursor, here.me.slot)
                sizes = _sizes(cursor, data)
        finally:
            connection.close()
    except psycopg2.Error as error:
        reason = f"cannot copy from {upstream.name}: {str(error).strip()}"
        raise OperationError(reason, hint=f"psql '{dsn}' as postgres shows more") from error
    copy_target.refuse_small_disks(sizes)
    return {place: size for place, size in sizes.items() if place != data}


def _check_major(here: Here, upstream: Node, major: int) -> None:
    if major != here.server.instance.name.major:
        raise OperationError(
            f"{upstream.name} runs PostgreSQL {major}, this node {here.server.instance.name}",
            hint=f"apt install postgresql-{major} here, and postgresql: {major}/main in cluster.yml",
        )


def _check_settings(here: Here, upstream: Node, source: adopting.Source) -> None:
    """Raise OperationError if a copy would not start because a parameter is lower here than on the source."""
    low = matching.lower(pg.configured(here.server.instance, without_alter_system=True), source.needs)
    if low:
        values = ", ".join(f"{name} = {least} there, {has} here" for name, (has, least) in low.items())
        line = matching.lines({name: least for name, (_, least) in low.items()})
        raise OperationError(
            f"a copy of {upstream.name} would not start as its standby: {values}",
            hint=f"in {paths.CLUSTER_YML} on every node: {line}; then pgpoolctl apply on every node",
        )


def _check_locales(upstream: Node, cursor: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
    """Raise OperationError if a copy would reject every login because this machine lacks a locale of the source."""
    cursor.execute(locales.NEEDED)
    absent = locales.missing(str(name) for (name,) in cursor.fetchall())
    if absent:
        reason = f"a copy of {upstream.name} would reject every login: this machine has no locale {', '.join(absent)}"
        raise OperationError(
            reason, hint=f"on this machine: {locales.making(absent)}; the copy then continues automatically"
        )


def _create_slot(cursor: Any, slot: str) -> None:  # noqa: ANN401 - psycopg2 has no types
    cursor.execute(_SLOT, (slot,))
    if cursor.fetchone() is None:
        cursor.execute(_CREATE_SLOT, (slot,))


def _sizes(cursor: Any, data: Path) -> Mapping[Path, int]:  # noqa: ANN401 - psycopg2 has no types
    """Return the bytes of the tablespaces by their folders; the default ones are in `data`."""
    cursor.execute(_SPACES)
    sizes: dict[Path, int] = {}
    for place, size in cursor.fetchall():
        folder = Path(place) if place else data
        sizes[folder] = sizes.get(folder, 0) + int(size)
    return sizes


def refusal(upstream: Node, role: Role, *, until: float = math.inf) -> str:
    """Return why another node's PostgreSQL refuses this node's login as `role`; "" if the login works.

    `until`: deadline by the monotonic clock; without one, a host that does not reply takes 5 s.
    """
    try:
        connect(dsn=database_dsn(upstream, role), seconds=_STATEMENT_SECONDS, until=until).close()
    except psycopg2.Error as error:
        return "; ".join(line.strip() for line in str(error).strip().splitlines())
    return ""


def answers_login(upstream: Node, seconds: float) -> bool:
    """Return whether another node's PostgreSQL answers this node's login within this time, even by refusing it."""
    why = refusal(upstream, Role.CHECK, until=time.monotonic() + seconds)
    return not why or "FATAL" in why


def dsn(upstream: Node, role: Role) -> str:
    """Return the connection string for a node's PostgreSQL as this role, without a database."""
    return libpq.conninfo(upstream, role, libpq.APPLICATION)


def database_dsn(upstream: Node, role: Role) -> str:
    """Return the connection string for the roles' own database of a node."""
    return libpq.conninfo(upstream, role, libpq.APPLICATION, database=paths.database())
