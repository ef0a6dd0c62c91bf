"""Make this node a standby of another one: by pg_rewind if possible, otherwise by a base backup.

The record has `copying` from before the first file changes until the standby is running. After a crash in between, the
agent sees that the data directory is incomplete, and starts again with a base backup.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from . import adopting, archive, files, libpq, locales, log, matching, paths, pulse, server_log, units
from . import postgresql as pg
from .cluster import Node
from .connection import connect
from .errors import ClusterError, OperationError, ServerError
from .facts import Postgresql
from .key import Role
from .node import Here
from .server import HOME, Instance
from .waiting import poll

Report = Callable[[str], None]
_SOURCE_SECONDS = 1800.0
"""Time limit for a statement on the source, such as CHECKPOINT or the size of its tablespaces."""
_START_SECONDS = 300.0
_STREAM_SECONDS = 30.0
"""Time limit for a new standby to start streaming."""
_SYNC_PAUSE_SECONDS = 0.3
_LOOK_PAUSE_SECONDS = 0.05
_FIRST_REWINDING_MAJOR = 15
"""The first major whose pg_rewind can recover a crashed server with a configuration file outside of its data."""


def clone(here: Here, source: str, report: Report, *, member: bool = True) -> None:
    """Replace this node's data with a copy of `source`, and start it as a standby of `source`.

    `member`: the node is then a member of the cluster. Nothing is deleted before the source has answered and the copy
    is known to fit on the disk.
    """
    database, upstream = here.server, here.cluster.named(source)
    instance = database.instance
    spaces = _prepare_source(here, upstream)
    _refuse_mounts(instance.data)
    _stop_server(here)
    here.remember(copying=source)
    here.under_way.copies.begin(source)
    report(f"copying {source}")
    waldir = _empty(instance, spaces)
    command = [
        instance.program("pg_basebackup"),
        f"--pgdata={instance.data}",
        f"--dbname={_dsn(upstream, Role.REPLICATION)}",
        f"--slot={here.me.slot}",
        *("--checkpoint=fast", "--wal-method=stream", "--progress", "--no-password", "--no-sync"),
        *([f"--waldir={waldir}"] if waldir else []),
    ]
    with _writing_through(instance.data):
        _run(command, report)
    _begin(here, source, report, member=member)


@contextlib.contextmanager
def _writing_through(data: Path) -> Iterator[None]:
    """Sync the copied files to disk while the copy is running.

    PostgreSQL syncs the whole data directory before it recovers a copy (SyncDataDirectory() in StartupXLOG(), 13 to
    18), so pg_basebackup runs with --no-sync. Syncing during the copy leaves PostgreSQL little to do.
    """
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_SYNC_PAUSE_SECONDS):
            subprocess.run(["sync", "--file-system", str(data)], check=False, capture_output=True)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def rejoin(here: Here, source: str, report: Report) -> None:
    """Bring this node back as a standby of `source`: by pg_rewind if possible, otherwise by a base backup."""
    if _rewindable(here):
        try:
            _rewind(here, source, report)
        except ClusterError as error:
            report(f"pg_rewind is not enough: {error.message}")
        else:
            return
    clone(here, source, report)


def _rewindable(here: Here) -> bool:
    control = pg.control_data(here.server.instance)
    system = int(control.get("Database system identifier", "0"))
    whole = not here.record.copying and system == here.record.system
    return whole and here.server.instance.name.major >= _FIRST_REWINDING_MAJOR


def _rewind(here: Here, source: str, report: Report) -> None:
    database, upstream = here.server, here.cluster.named(source)
    instance = database.instance
    _prepare_source(here, upstream, checkpoint=True)
    _stop_server(here)
    here.remember(copying=source)
    here.under_way.copies.begin(source)
    report(f"rewinding to where {source} continued")
    (instance.data / "standby.signal").unlink(missing_ok=True)  # pg_rewind needs crash recovery, which ends
    command = [
        instance.program("pg_rewind"),
        f"--target-pgdata={instance.data}",
        f"--source-server={_own_database_dsn(upstream, Role.RECOVERY)}",
        f"--config-file={instance.configuration / 'postgresql.conf'}",
        "--progress",
    ]
    _run(command, report)
    _begin(here, source, report)


def _prepare_source(here: Here, upstream: Node, *, checkpoint: bool = False) -> dict[Path, int]:
    """Check that a copy of the source would work, create its slot, and return its tablespaces with sizes in bytes.

    `checkpoint`: before 16, pg_rewind finds the source's new timeline in the control file only after a checkpoint
    (pg_rewind(1)). Raises ClusterError if the source cannot be copied.
    """
    pulse.beat(pulse.PROGRESS_SECONDS)
    dsn = _own_database_dsn(upstream, Role.RECOVERY)
    hint = f"psql '{dsn}' as postgres shows more"
    try:
        connection: Any = connect(dsn=dsn, seconds=_SOURCE_SECONDS)
    except psycopg2.Error as error:
        raise OperationError(f"{upstream.name} cannot be copied from: {str(error).strip()}", hint=hint) from error
    try:
        with connection.cursor() as cursor:
            major = connection.server_version // 10000
            if major != here.server.instance.name.major:
                raise OperationError(
                    f"{upstream.name} runs PostgreSQL {major}, this node {here.server.instance.name}",
                    hint=f"apt install postgresql-{major} here, and postgresql: {major}/main in cluster.yml",
                )
            cursor.execute(_SETTINGS, (list(adopting.NAMES),))
            source = adopting.Source.of(cursor.fetchall())
            adopting.adopt(here, source)
            _check_settings(here, upstream, source)
            _check_locales(upstream, cursor)
            if checkpoint:
                cursor.execute("CHECKPOINT")
            cursor.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (here.me.slot,))
            if cursor.fetchone() is None:
                cursor.execute("SELECT pg_create_physical_replication_slot(%s, true)", (here.me.slot,))
            cursor.execute("SELECT pg_tablespace_location(oid), pg_tablespace_size(oid) FROM pg_tablespace")
            sizes = {Path(place) if place else here.server.instance.data: int(size) for place, size in _summed(cursor)}
    except psycopg2.Error as error:
        raise OperationError(f"{upstream.name} cannot be copied from: {str(error).strip()}", hint=hint) from error
    finally:
        connection.close()
    _check_space(sizes)
    return {place: size for place, size in sizes.items() if place != here.server.instance.data}


_SETTINGS = "SELECT name, setting, coalesce(sourcefile, '') FROM pg_settings WHERE name = ANY(%s)"


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
    """Raise OperationError if a copy would refuse every login because this machine lacks a locale of the source."""
    cursor.execute(locales.NEEDED)
    absent = locales.missing(str(name) for (name,) in cursor.fetchall())
    if absent:
        reason = f"a copy of {upstream.name} would refuse every login: this machine has no locale {', '.join(absent)}"
        raise OperationError(reason, hint=f"on this machine: {locales.making(absent)}; then it goes on by itself")


def refusal(upstream: Node, role: Role) -> str:
    """Return why another node's PostgreSQL refuses this node's login as `role`; "" if the login works."""
    try:
        connect(dsn=_own_database_dsn(upstream, role), seconds=_SOURCE_SECONDS).close()
    except psycopg2.Error as error:
        return "; ".join(line.strip() for line in str(error).strip().splitlines())
    return ""


def _summed(cursor: Any) -> list[tuple[str, int]]:  # noqa: ANN401 - psycopg2 has no types
    sizes: dict[str, int] = {}
    for place, size in cursor.fetchall():
        sizes[place] = sizes.get(place, 0) + size
    return list(sizes.items())


def _check_space(sizes: dict[Path, int]) -> None:
    """Raise ServerError if a copy would not fit on one of the disks, after the old data there is deleted."""
    disks: dict[int, list[Path]] = {}
    for place in sizes:
        disks.setdefault(_there(place).stat().st_dev, []).append(place)
    for places in disks.values():
        size = sum(sizes[place] for place in places)
        free = shutil.disk_usage(_there(places[0])).free + sum(map(_size_of, places))
        if free < size:
            names = ", ".join(map(str, places))
            text = f"{names}: the copy needs {size >> 20} MB, and {free >> 20} MB are free"
            raise ServerError(text, hint="free space on that disk")


def _there(place: Path) -> Path:
    """Return the folder, or its nearest ancestor that exists."""
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _refuse_mounts(data: Path) -> None:
    """Raise ServerError, before anything is deleted, for a mount point or a lost+found, which cannot be deleted."""
    wal = data / "pg_wal"
    folders = [data, *([wal.resolve()] if wal.is_symlink() else [])]
    for folder in (folder for folder in folders if folder.is_dir()):
        for entry in folder.iterdir():
            if entry.name == "lost+found":
                hint = f"use a folder below {folder} as the data directory, or make pg_wal a link to one"
                raise ServerError(f"{folder} is a file system's top folder, with {entry.name} in it", hint=hint)
            if entry.is_mount():
                hint = f"umount {entry}; mount that disk elsewhere and make {entry} a symbolic link to a folder on it"
                raise ServerError(f"{entry} is a mount point, and a copy needs an empty data directory", hint=hint)


def _size_of(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(root, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _stop_server(here: Here) -> None:
    database = here.server
    facts = here.look()
    if facts.postgresql is Postgresql.ABSENT:
        state = units.state(database.instance.unit)
        if state.active not in ("inactive", "failed"):
            _stop_unit(here)
        return
    if facts.postgresql in (Postgresql.UP, Postgresql.STARTING) or (database.instance.data / "postmaster.pid").exists():
        _stop_unit(here)


def _stop_unit(here: Here) -> None:
    pg.stop(here.server)
    here.forget_looks()


def _empty(instance: Instance, spaces: dict[Path, int]) -> str:
    """Empty the data directory and the tablespaces; return the target of pg_wal if that is a link, otherwise ""."""
    pulse.beat(pulse.PROGRESS_SECONDS)
    data = instance.data
    wal = data / "pg_wal"
    waldir = str(wal.resolve()) if wal.is_symlink() else ""
    old = [link.resolve() for link in (data / "pg_tblspc").glob("*") if link.is_symlink()]
    hint = f"install -d -o postgres -g postgres -m 0700 {data}"
    try:
        for place in {*spaces, *old}:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            for version in place.glob(f"PG_{instance.name.major}_*"):
                shutil.rmtree(version)
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in [data, *([Path(waldir)] if waldir else [])]:
            for entry in sorted(folder.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        data.chmod(0o700)
    except OSError as error:
        raise ServerError(f"{error.filename}: {error.strerror}", hint=hint) from error
    return waldir


def _begin(here: Here, source: str, report: Report, *, member: bool = True) -> None:
    """Start the copy as a standby of `source`, and wait until it streams."""
    instance = here.server.instance
    if here.cluster.archives(here.me):
        archive.clear(paths.ARCHIVE)
    text = pg.conninfo(here.cluster, here.me.name, source)
    (instance.data / "standby.signal").touch(mode=0o600)
    with (instance.data / "postgresql.auto.conf").open("a", encoding="utf-8") as stream:
        stream.write(f"primary_conninfo = '{text}'\n")
        if not here.cluster.mode.streams:
            stream.write(f"primary_slot_name = '{here.me.slot}'\n")
            stream.write("restore_command = ''\n")  # each request for a file that no node has would take half a second
        stream.flush()
        os.fsync(stream.fileno())
    files.sync_folder(instance.data)  # pg_rewind, or PostgreSQL at its start, syncs everything else
    report("starting it as a standby")
    with here.under_way.starting:
        pg.start(here.server, seconds=_START_SECONDS)
    await_streaming(here, source)
    system = int(here.query("SELECT system_identifier FROM pg_control_system()")[0][0])
    here.remember(system=system, copying="" if member else source)
    if member:
        here.under_way.copies.end()
    log.info(f"this node is a standby of {source}")


def await_streaming(here: Here, source: str) -> None:
    """Wait until this node's standby streams from `source`; raises OperationError with the server's own reason."""

    def streams() -> bool:
        here.forget_looks()
        with contextlib.suppress(OperationError):  # a server that has much to write may answer late
            facts = here.look()
            return facts.standby and facts.streaming and facts.follows == source
        return False

    if poll(streams, seconds=_STREAM_SECONDS, pause=_LOOK_PAUSE_SECONDS):
        return
    reason = server_log.last_words(here.server.instance) or f"nothing came within {_STREAM_SECONDS:.0f} s"
    raise OperationError(f"it does not receive from {source}: {reason}", hint=f"pgpoolctl recover {here.me.name}")


def _dsn(upstream: Node, role: Role) -> str:
    return libpq.conninfo(upstream, role, "pgpoolctl", HOME)


def _own_database_dsn(upstream: Node, role: Role) -> str:
    return f"{_dsn(upstream, role)} dbname={paths.database()}"


_PROGRESS = re.compile(r"\s*(\d+)/(\d+) kB \((\d+)%\)")


def _run(command: Sequence[str], report: Report) -> None:
    """Run a program of PostgreSQL and report its progress; raises OperationError with its own reason."""
    name = Path(command[0]).name
    reason, reported = "", ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        cwd="/",
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        pulse.beat(pulse.PROGRESS_SECONDS)
        for line in process.stdout:  # text mode treats \r as an end of line
            pulse.beat(pulse.PROGRESS_SECONDS)
            match = _PROGRESS.match(line)
            if match:
                if _in_words(match) != reported:
                    reported = _in_words(match)
                    report(reported)
            elif line.strip():
                log.info(f"{name}: {line.strip()}")
                reason = line.strip()
    if process.returncode != 0:
        why = reason.split(": error: ")[-1] or f"exit status {process.returncode}"
        raise OperationError(f"{name}: {why}", hint="run the same command again")


def _in_words(match: re.Match[str]) -> str:
    done, total, percent = (int(group) for group in match.groups())
    return f"{done * 1024} of {total * 1024} bytes ({min(percent, 100)} %)"
