"""Make this node a standby of another one: by pg_rewind if possible, otherwise by a base backup.

Before any data changes, the WAL that only this node has is kept (keeping.py). The record has `copying` from before the
first file changes until the standby is running. After a crash in between, the agent sees that the data directory is
incomplete, and starts again with a base backup.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..decision.facts.facts import Postgresql, same_timeline
from ..definition.cluster import Node
from ..definition.key import Role
from ..ground import files, log, paths, programs
from ..ground.errors import ClusterError, OperationError
from ..ground.waiting import poll
from ..machine import units
from ..machine.server import Instance
from ..machine.wal import archive
from ..node.node import Here
from ..postgresql import postgresql as pg
from ..postgresql import server_log
from ..transport.peers import Progress
from . import copy_program, copy_source, copy_target, keeping

_START_SECONDS = 300.0
_STREAM_SECONDS = 30.0
"""Time limit for a new standby to start streaming."""
_SYNC_SECONDS = 3600.0
_SYNC_PAUSE_SECONDS = 0.3
_LOOK_PAUSE_SECONDS = 0.05
_FIRST_REWINDING_MAJOR = 15
"""The first major whose pg_rewind can recover a crashed server with a configuration file outside of its data."""


def clone(here: Here, source: str, report: Progress, *, member: bool = True, loses: bool = False) -> None:
    """Replace this node's data with a copy of `source`, and start it as a standby of `source`.

    `member`: the node is then a member of the cluster. `loses`: WAL that only this node has may be lost if it cannot be
    kept. Nothing is deleted before the source has answered and the copy is known to fit on the disk. Raises
    ClusterError, NotKeptError in particular.
    """
    _Copy(here, here.cluster.named(source), report, member=member, loses=loses).clone()


def rejoin(here: Here, source: str, report: Progress) -> None:
    """Bring this node back as a standby of `source`: by pg_rewind if possible, otherwise by a base backup.

    Raises ClusterError, NotKeptError in particular: then no data has changed.
    """
    copy = _Copy(here, here.cluster.named(source), report)
    if _rewindable(here) and _tells_apart(here, source):
        try:
            copy.rewind()
        except keeping.NotKeptError:
            raise
        except ClusterError as error:
            report(f"pg_rewind does not suffice: {error.message}")
        else:
            return
    copy.clone()


def _rewindable(here: Here) -> bool:
    control = pg.control_data(here.server.instance)
    system = int(control.get("Database system identifier", "0"))
    whole = not here.record.copying and system == here.record.system
    return whole and here.server.instance.name.major >= _FIRST_REWINDING_MAJOR


def _tells_apart(here: Here, source: str) -> bool:
    """Return whether pg_rewind can tell this node's timelines from those of the source: it compares numbers only."""
    origins = here.record.origins
    last = max((origin.timeline for origin in origins), default=0)
    return same_timeline(here.seen.value.of(source), last, origins) is True


@dataclass(frozen=True, slots=True)
class _Copy:
    """One copy of this node's data from another node."""

    here: Here
    upstream: Node
    report: Progress
    member: bool = True
    loses: bool = False

    @property
    def instance(self) -> Instance:
        return self.here.server.instance

    def clone(self) -> None:
        instance = self.instance
        spaces = copy_source.prepare(self.here, self.upstream)
        copy_target.refuse_mounts(instance.data)
        self._begin(f"copying {self.upstream.name}")
        waldir = copy_target.empty(instance, spaces)
        command = [
            instance.program("pg_basebackup"),
            f"--pgdata={instance.data}",
            f"--dbname={copy_source.dsn(self.upstream, Role.REPLICATION)}",
            f"--slot={self.here.me.slot}",
            *("--checkpoint=fast", "--wal-method=stream", "--progress", "--no-password", "--no-sync"),
            *([f"--waldir={waldir}"] if waldir else []),
        ]
        with _writing_through(instance.data):
            copy_program.run(command, self.report)
        self._follow()

    def rewind(self) -> None:
        instance = self.instance
        copy_source.prepare(self.here, self.upstream, checkpoint=True)
        self._begin(f"rewinding to the point where {self.upstream.name} diverged")
        (instance.data / "standby.signal").unlink(missing_ok=True)  # pg_rewind needs crash recovery, which ends
        command = [
            instance.program("pg_rewind"),
            f"--target-pgdata={instance.data}",
            f"--source-server={copy_source.database_dsn(self.upstream, Role.RECOVERY)}",
            f"--config-file={instance.configuration / 'postgresql.conf'}",
            "--progress",
        ]
        copy_program.run(command, self.report)
        self._follow()

    def _begin(self, text: str) -> None:
        """Stop the server, keep the WAL that only it has, and record that its data is no longer whole."""
        _stop_server(self.here)
        try:
            kept = keeping.keep(self.here, self.upstream.name)
        except keeping.NotKeptError as error:
            if not self.loses:
                raise
            self.report(f"{error.message}; it is lost")
        else:
            if kept:
                self.report(f"WAL that only {self.here.me.name} has is kept in {kept}")
        self.here.remember(copying=self.upstream.name)
        self.here.under_way.copies.begin(self.upstream.name)
        self.report(text)

    def _follow(self) -> None:
        """Start the copy as a standby of the source, and wait until it streams."""
        here, source = self.here, self.upstream.name
        if here.cluster.archives(here.me):
            archive.clear(paths.ARCHIVE)
        self._write_recovery_settings()
        self.report("starting it as a standby")
        with here.under_way.starting:
            pg.start(here.server, seconds=_START_SECONDS)
        await_streaming(here, source)
        system = int(here.query("SELECT system_identifier FROM pg_control_system()")[0][0])
        here.remember(system=system, copying="" if self.member else source)
        if self.member:
            here.under_way.copies.end()
            here.under_way.returns.end()
        log.info(f"this node is a standby of {source}")

    def _write_recovery_settings(self) -> None:
        here, data = self.here, self.instance.data
        text = pg.conninfo(here.cluster, here.me.name, self.upstream.name)
        (data / "standby.signal").touch(mode=0o600)
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as stream:
            stream.write(f"primary_conninfo = '{text}'\n")
            if not here.cluster.mode.streams:
                stream.write(f"primary_slot_name = '{here.me.slot}'\n")
                stream.write("restore_command = ''\n")  # each request for a missing file would take half a second
            stream.flush()
            os.fsync(stream.fileno())
        files.sync_folder(data)  # pg_rewind, or PostgreSQL at its start, syncs everything else


@contextlib.contextmanager
def _writing_through(data: Path) -> Iterator[None]:
    """Sync the copied files to disk while the copy is running.

    PostgreSQL syncs the whole data directory before it recovers a copy (SyncDataDirectory() in StartupXLOG(), 13 to
    18), so pg_basebackup runs with --no-sync. Syncing during the copy leaves PostgreSQL little to do.
    """
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_SYNC_PAUSE_SECONDS):
            programs.attempt(["sync", "--file-system", str(data)], seconds=_SYNC_SECONDS)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
    reason = server_log.last_words(here.server.instance) or f"nothing received within {_STREAM_SECONDS:.0f} s"
    raise OperationError(f"it does not receive from {source}: {reason}", hint=f"pgpoolctl recover {here.me.name}")
