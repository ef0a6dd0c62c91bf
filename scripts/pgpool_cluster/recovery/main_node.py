"""Recover a node if every node is a primary: the stages on the main node, where pgpool-II calls pgpool_recovery()."""

from __future__ import annotations

import contextlib
import threading

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..ground.errors import ClusterError, OperationError
from ..node.node import Here
from ..node.stages import HINT, PATIENCE_SECONDS, STALL_SECONDS
from ..operations import postgresql_service
from ..transport.channel import SILENCE
from ..transport.peers import Progress
from ..transport.protocol import CopyRequest, NoteRequest, TakeUpRequest, WhyRequest
from . import sessions
from .watchdog import await_joined

_WHY_SECONDS = 5.0
_SEQUENCES = """
SELECT format('SELECT setval(%L, last_value, is_called) FROM %s', c.oid::regclass, c.oid::regclass)
FROM pg_class c WHERE relkind = 'S' AND relpersistence = 'p'
"""


def first_stage(here: Here, name: str, progress: Progress) -> None:
    """Let the target copy this node, and begin to watch the sessions; raises OperationError."""
    if name == here.me.name:
        hint = "pgpoolctl status shows whether pgpool-II has detached it; run the same command to start again"
        raise OperationError(f"pgpool-II sees {name} as the main node, which cannot be rebuilt from itself", hint=hint)
    drain = here.under_way.drain
    with drain.copying(str(here.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])):
        here.peers.ask(name, CopyRequest(here.me.name), seconds=SILENCE, progress=progress)
        _checkpoint(here)
    threading.Thread(target=sessions.watch, args=(here, drain.begin()), daemon=True).start()


def _checkpoint(here: Here) -> None:
    """Run a CHECKPOINT, so that the one that pgpool-II runs next writes less; raises OperationError."""
    try:
        with here.server.session("postgres", seconds=SILENCE) as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("CHECKPOINT")
    except psycopg2.Error as error:
        raise OperationError(f"CHECKPOINT: {str(error).strip()}", hint=HINT) from error


def second_stage(here: Here, name: str, progress: Progress) -> None:
    """Let the target replay the remaining WAL and become a primary; raises OperationError."""
    try:
        with here.under_way.drain.finishing(name):
            _hand_over(here, name, progress)
    except ClusterError as error:
        threading.Thread(target=_tell_why, args=(here, name, error.message), daemon=True).start()  # clients wait
        raise
    with contextlib.suppress(ClusterError):
        postgresql_service.drop_slot(here, here.cluster.named(name).slot)


def _hand_over(here: Here, name: str, progress: Progress) -> None:
    await_joined(here, progress, seconds=PATIENCE_SECONDS)
    align_sequences(here)
    position = str(here.query("SELECT pg_current_wal_insert_lsn()")[0][0])
    here.query("SELECT pg_switch_wal()")  # into the archive, in case the target cannot stream
    request = TakeUpRequest(here.me.name, position, here.record.term)
    here.peers.ask(name, NoteRequest(), seconds=PATIENCE_SECONDS)  # it may have failed while sessions ended
    here.peers.ask(name, request, seconds=STALL_SECONDS + PATIENCE_SECONDS, progress=progress)


def _tell_why(here: Here, name: str, why: str) -> None:
    with contextlib.suppress(ClusterError):
        here.peers.ask(name, WhyRequest(why), seconds=_WHY_SECONDS)


def align_sequences(here: Here) -> None:
    """Write every sequence's exact value to the WAL, which otherwise has up to 32 values more.

    No value is used up. Raises OperationError.
    """
    names = here.query("SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'")
    for (database,) in names:
        try:
            with here.server.session(str(database)) as cursor:
                cursor.execute(_SEQUENCES)
                for (statement,) in cursor.fetchall():
                    cursor.execute(statement)
        except psycopg2.Error as error:
            raise OperationError(f"sequences of {database}: {str(error).strip()}", hint=HINT) from error
