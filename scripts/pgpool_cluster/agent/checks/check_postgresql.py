"""Check this node's PostgreSQL server: its state, its data directory, its extension and its indexes."""

from __future__ import annotations

import os
import shutil
import stat

from ...configuration.rendering.rendered_paths import STUBS
from ...decision.facts.facts import NodeFacts, Postgresql
from ...ground import paths
from ...machine.server import Instance
from ...node.node import Here
from ...postgresql import locales, server_log, typed
from ...postgresql.database import Database
from . import check_roles, check_settings
from .checklist import LEAST_FREE, Checklist

_LOST = "SELECT slot_name FROM pg_replication_slots WHERE wal_status = 'lost'"
_REWINDABLE = "SELECT current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on'"
_EXTENSION = "pgpool_recovery"
_VERSIONS = "SELECT default_version, coalesce(installed_version, '') FROM pg_available_extensions WHERE name = %s"
_NOT_FOR_OTHERS = stat.S_IWGRP | stat.S_IRWXO
"""PostgreSQL does not start if its data directory has one of these permissions."""


def of_server(here: Here, checks: Checklist) -> None:
    """Check the server; of one that is not up, only its state and its data directory."""
    facts = here.look()
    _state(here, facts, checks)
    _data_directory(here, facts, checks)
    if facts.postgresql is not Postgresql.UP:
        return
    check_settings.of_settings(here, checks)
    _extension(here, facts, checks)
    _sorting(here, checks)
    lost = [str(name) for (name,) in here.query(_LOST)]
    fix = "; ".join(f"pgpoolctl recover {name}" for name in lost)
    checks.add("no replication slot has lost its WAL", not lost, ", ".join(lost), fix)
    _programs(here.server.instance, checks)
    if facts.writable and facts.member:
        check_roles.of_roles(here, checks)
    fix = f"systemctl restart {here.server.instance.unit}"
    rewindable = bool(here.query(_REWINDABLE)[0][0])
    checks.add("pg_rewind can be used", rewindable, "neither wal_log_hints nor data checksums are on", fix)


def _state(here: Here, facts: NodeFacts, checks: Checklist) -> None:
    database, instance = here.server, here.server.instance
    up = facts.postgresql is Postgresql.UP
    absent = "" if up else locales.refused(database.refused)
    if absent:
        fix = f"{locales.making([absent])}; systemctl restart {instance.unit}"
        checks.add(f"PostgreSQL {instance.name} accepts logins", False, f"this machine has no locale {absent}", fix)
    else:
        fix = checks.hint(f"systemctl start {instance.unit}")
        checks.add(f"PostgreSQL {instance.name} runs", up, not_up(facts.postgresql, database), fix)
    checks.add(
        "this node is a member of the cluster", facts.member, "it is not a member yet", checks.hint("pgpoolctl status")
    )


def _data_directory(here: Here, facts: NodeFacts, checks: Checklist) -> None:
    data = here.server.instance.data
    usage = shutil.disk_usage(data if data.exists() else "/var/lib")
    free = usage.free / usage.total
    checks.add(
        "the disk of PostgreSQL has free space", free >= LEAST_FREE, f"{free:.0%} is free", f"free space below {data}"
    )
    _permissions(here, checks)
    owner = os.geteuid()
    for name in STUBS:
        path = data / name
        good = path.exists() and path.stat().st_uid == owner and os.access(path, os.X_OK)
        what = f"{path.name} is in the data directory, owned by postgres"
        absent = facts.postgresql is Postgresql.ABSENT
        checks.add(what, good or absent, "it is missing, or has the wrong owner or mode", "pgpoolctl apply")


def _permissions(here: Here, checks: Checklist) -> None:
    """Check what lets a running server go on, but keeps it from writing new files or from starting again."""
    data = here.server.instance.data
    if not data.exists():
        return
    system = os.statvfs(data)
    left = system.f_favail / system.f_files if system.f_files else 1.0
    fix = f"delete files on the file system of {data}: df -i {data}; du --inodes -x shows where they are"
    checks.add("the disk of PostgreSQL has free inodes", left >= LEAST_FREE, f"{left:.0%} are free", fix)
    found = data.stat()
    checks.add(
        "only postgres can write the data directory",
        found.st_uid == os.geteuid() and not found.st_mode & _NOT_FOR_OTHERS,
        f"{data} has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}, so PostgreSQL would not start",
        f"chown {paths.POSTGRES}: {data}; chmod g-w,o-rwx {data}",
    )


def _extension(here: Here, facts: NodeFacts, checks: Checklist) -> None:
    """Check the files of the extension and, on the primary, its version in the database that pgpool-II uses."""
    instance = here.server.instance
    found = here.query(_VERSIONS, _EXTENSION)
    fix = f"apt install --reinstall postgresql-{instance.name.major}-pgpool2"
    checks.add(f"the extension {_EXTENSION} is installed", bool(found), "its files are missing", fix)
    if found and facts.writable and facts.member:
        ((newest, version),) = found
        verb = f"ALTER EXTENSION {_EXTENSION} UPDATE" if version else f"CREATE EXTENSION {_EXTENSION}"
        checks.add(
            f"the extension {_EXTENSION} has its version",
            version == newest,
            f"the database has {version or 'none'}, the files are those of {newest}",
            typed.psql(instance.port, verb),
        )


def _programs(instance: Instance, checks: Checklist) -> None:
    what = "programs can run in the data directory, as pgpool-II's recovery requires"
    executable = not os.statvfs(instance.data).f_flag & os.ST_NOEXEC
    fix = f"mount -o remount,exec the file system of {instance.data}"
    checks.add(what, executable, "it is mounted noexec", fix)


def not_up(state: Postgresql, database: Database) -> str:
    """Return the state of a server that is not up, with the server's own reason; "" if it is up."""
    if state is Postgresql.UP:
        return ""
    said = database.refused.splitlines()[:1] if state is Postgresql.STARTING else []
    reason = server_log.last_words(database.instance) if state is Postgresql.DOWN else "".join(said)
    return f"{state}: {reason}" if reason else str(state)


def _sorting(here: Here, checks: Checklist) -> None:
    """Check whether indexes of texts have the sort order of this machine's C library or ICU."""
    names = [str(name) for (name,) in here.query(locales.versions(here.server.instance))]
    shown = ", ".join(names)
    if here.look().in_recovery:
        fix = "use one Debian release on this node and the primary; after an upgrade of both, REINDEX DATABASE there"
    else:
        fix = "; ".join(f'REINDEX DATABASE "{one}"; ALTER DATABASE "{one}" REFRESH COLLATION VERSION' for one in names)
    checks.add(
        "the indexes of the databases match the sort order of this node",
        not names,
        f"{shown}: the C library or ICU of this node sorts differently, so a query may miss rows",
        fix,
    )
