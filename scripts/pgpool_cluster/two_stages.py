"""Recover a node if every node is a primary: the steps of the target, the main node and the leading pgpool-II's node.

pgpool-II controls the recovery (`pcp_recovery_node`). The first stage copies the main node while clients write; the
target then follows the main node as a standby. In the second stage, pgpool-II accepts no new clients and waits for the
sessions to end. The target replays the remaining WAL and becomes a primary, and pgpool-II attaches it. The record has
`copying` from the first file until the target is a primary. The target is in service (`led`) only once pgpool-II has
attached it, so a recovery that fails in between never leaves a node that counts as having every write.
"""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from . import act, copying, log, pgpool
from .channel import SILENCE
from .cluster import Cluster
from .errors import ClusterError, OperationError, ServerError
from .facts import LEADING, BackendState, ClusterFacts, NodeFacts, WatchdogState
from .key import Role
from .node import Here
from .peers import Progress
from .protocol import (
    CancelActiveRequest,
    CopyRequest,
    DetachRequest,
    NoteRequest,
    PcpRecoveryRequest,
    TakeUpRequest,
    WhyRequest,
)
from .recovery import refuse_needless, refuse_to_lose, sight
from .situation import in_service, leading_node, rightful_primary
from .watchdog import await_joined

_DAY = 86400.0
_EVER = 1e9
_FINISHING = 10.0
"""Seconds for which statements that the main node has already executed may finish on the other nodes. The limit is half
of the time that recovery_timeout leaves, if that is shorter: after recovery_timeout, pgpool-II considers a busy session
a miscount, and continues (recovery.c, ensure_conn_counter_validity)."""
_DETACH_SECONDS = 40.0
_LEADER_SECONDS = 10.0
_COPIED_SECONDS = 600.0
"""Seconds that a complete copy waits for a pgpool-II that has not joined, so that an administrator can restart it."""
_BETWEEN = 1.0
_PATIENCE = 1.0
"""Seconds without progress of the replay, after which the target reads the source's archive instead of its stream."""
_STUCK = 4.0
"""Seconds without progress, or without a message, after which a recovery is aborted, because clients are waiting."""
_HINT = "journalctl -u pgpool2-cluster has more; the same command begins it again"
_WORD_SECONDS = 10.0
_LATE = 30.0
"""Seconds that pgpool-II may need in addition to recovery_timeout: for its checkpoints, and to attach the node."""
_BUSY = {"failover is in progress": 20, "already processing": 20, "failed to send start recovery packet": 2}
"""Messages of pgpool-II after which a retry can succeed, and the number of retries for each message.

The last one occurs after the copy, while a watchdog that was cut off reconnects to the others.
"""
_REPLAYED = "SELECT pg_last_wal_replay_lsn()::text, pg_last_wal_replay_lsn() >= %s::pg_lsn"
_SEQUENCES = """
SELECT format('SELECT setval(%L, last_value, is_called) FROM %s', c.oid::regclass, c.oid::regclass)
FROM pg_class c WHERE relkind = 'S' AND relpersistence = 'p'
"""
_CANCEL = """
SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity AS session
WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid() AND usename <> ALL(%s)
AND query_start < clock_timestamp() - interval '0.5 s'
AND (query_start > clock_timestamp() - %s * interval '1 s' OR NOT EXISTS (
    SELECT FROM pg_locks AS held WHERE held.pid = session.pid AND locktype = 'relation' AND mode <> 'AccessShareLock'
))
"""
"""Cancel clients' statements with the same result on all nodes; pgpool-II detaches a node with a different result.

A statement runs on the main node and then on the others, even if it was cancelled on the main node. If a writing
statement began more than `since` seconds ago on another node, the main node has completed it, so it may finish. A
statement that has just begun is not cancelled, because it may not have sent its row description yet (a "kind
mismatch").
"""


def rebuild(here: Here, progress: Progress, *, force: bool = False) -> None:
    """Rebuild this node with pgpool-II's recovery; raises OperationError with the reason of the step that failed.

    A node in service is refused before any change. With `force`, it is rebuilt nevertheless. If that fails, the agent
    repeats it until it succeeds, because the other nodes take writes without this one.
    """
    if not here.recovering.acquire(blocking=False):
        _await_other(here, progress)
        return
    try:
        _rebuild(here, progress, force=force)
    finally:
        here.telling = None
        here.recovering.release()


def _await_other(here: Here, progress: Progress) -> None:
    """Wait for the end of a running recovery of this node; raises OperationError if it failed."""
    progress(f"{here.me.name} is being rebuilt already")
    while not here.recovering.acquire(timeout=_WORD_SECONDS):
        progress("it still is")
    here.recovering.release()
    if here.failure:
        raise OperationError(here.failure, hint=_HINT)


def _rebuild(here: Here, progress: Progress, *, force: bool) -> None:
    facts = sight(here, lambda facts: _serving_others(here, facts))
    if not force:
        refuse_needless(here.cluster, facts, here.me.name)
    _refuse(here, _serving_others(here, facts), facts.of(here.me.name))
    pooler = _pooler(here)
    if facts.of(here.me.name) in in_service(here.cluster, facts):
        await_joined(here, progress)
        here.remember(led=0)
    here.failure, here.telling = "", progress
    _take_out(here, pooler)
    progress(f"pgpool-II of {pooler} rebuilds {here.me.name}")
    try:
        here.on(pooler, PcpRecoveryRequest(here.me.name), seconds=_DAY)
    except ClusterError as error:
        if not isinstance(error, ServerError):  # pgpool-II has aborted the recovery
            here.promoting = False
        here.failure = here.failure or error.message
        raise OperationError(here.failure, hint=_HINT) from error


def _serving_others(here: Here, facts: ClusterFacts) -> list[str]:
    return [found.node for found in in_service(here.cluster, facts) if found.node != here.me.name]


def _refuse(here: Here, serving: list[str], mine: NodeFacts) -> None:
    if not serving:
        hint = "pgpoolctl status shows every node; bring one with all writes back first"
        raise OperationError(f"no other node is in service that {here.me.name} could be copied from", hint=hint)
    refuse_to_lose(mine)


def _pooler(here: Here) -> str:
    """Return the node whose pgpool-II must rebuild this one: the leader's, unless that is a witness.

    A leader does not answer for a moment after it has detached a node. Raises OperationError if no pgpool-II leads
    within 10 s.
    """
    deadline = time.monotonic() + _LEADER_SECONDS
    while not (name := leading_node(here.cluster, facts := here.look_at_all())):
        if time.monotonic() > deadline:
            raise OperationError("no pgpool-II leads", hint="pgpoolctl status; systemctl status pgpool2")
        time.sleep(0.2)
        here.forget_looks()
    return rebuilds(here.cluster, facts, name)


def rebuilds(cluster: Cluster, facts: ClusterFacts, leader: str) -> str:
    """Return the node whose pgpool-II can call the recovery function, because its superuser's password is there.

    Each pgpool-II can run a recovery, and its watchdog informs the others. If the leader's node has no database, return
    the first reachable database node whose pgpool-II is a standby in the watchdog; otherwise the leader
    (configuration.py).
    """
    names = [node.name for node in cluster.databases]
    if leader in names:
        return leader
    views = ((name, facts.of(name).pgpool) for name in names)
    return next((name for name, view in views if view and view.watchdog is WatchdogState.STANDBY), leader)


def _take_out(here: Here, pooler: str) -> None:
    """Detach this node from the pgpool-II that will rebuild it, if necessary; raises OperationError after 40 s."""
    deadline = time.monotonic() + _DETACH_SECONDS
    asked = False
    while time.monotonic() < deadline:
        here.forget_looks()
        view = here.look_at_all().of(pooler).pgpool
        if view is not None and view.backends.get(here.me.name) is not BackendState.UP:
            return
        if view is not None and not asked:
            here.on(pooler, DetachRequest(here.me.name, recovering=True), seconds=_DETACH_SECONDS)
            asked = True
        time.sleep(0.2)
    raise OperationError(f"pgpool-II of {pooler} does not give {here.me.name} up", hint=_HINT)


# On the node of that pgpool-II


def pcp_recovery(here: Here, name: str) -> None:
    """Run pcp_recovery_node, and retry while pgpool-II is busy; raises OperationError."""
    number = here.cluster.databases.index(here.cluster.named(name))
    left = dict(_BUSY)
    while True:
        try:
            pgpool.pcp("pcp_recovery_node", "-n", str(number), seconds=_DAY)
        except OperationError as error:
            reason = next((words for words in left if words in error.message), "")
            if not left.get(reason):
                raise
            left[reason] -= 1
            time.sleep(_BETWEEN)
        else:
            return


# On the main node, where pgpool-II calls pgpool_recovery()


def first_stage(here: Here, name: str, progress: Progress) -> None:
    """Let the target copy this node; raises OperationError. Then start the thread of `_watch_sessions`."""
    if name == here.me.name:
        hint = "pgpoolctl status shows whether pgpool-II has given it up; the same command begins it again"
        raise OperationError(f"pgpool-II sees {name} as the main node, which cannot be rebuilt from itself", hint=hint)
    here.archive_needed = str(act.query(here, "SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])
    try:
        here.peers.ask(name, CopyRequest(here.me.name), seconds=SILENCE, progress=progress)
        _checkpoint(here)
    except ClusterError:
        here.archive_needed = ""
        raise
    here.taken_up = ""
    here.draining = time.monotonic()
    threading.Thread(target=_watch_sessions, args=(here,), daemon=True).start()


def _checkpoint(here: Here) -> None:
    """Run a CHECKPOINT, so that the one that pgpool-II runs next writes less; raises OperationError."""
    try:
        with here.server.session("postgres", seconds=SILENCE) as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("CHECKPOINT")
    except psycopg2.Error as error:
        raise OperationError(f"CHECKPOINT: {str(error).strip()}", hint=_HINT) from error


def second_stage(here: Here, name: str, progress: Progress) -> None:
    """Let the target replay the remaining WAL and become a primary; raises OperationError."""
    here.draining = 0.0
    try:
        await_joined(here, progress, seconds=_PATIENCE)
        align_sequences(here)
        position = str(act.query(here, "SELECT pg_current_wal_insert_lsn()")[0][0])
        act.query(here, "SELECT pg_switch_wal()")  # into the archive, in case the target cannot stream
        term = here.record.term
        request = TakeUpRequest(here.me.name, position, term)
        here.peers.ask(name, NoteRequest(), seconds=_PATIENCE)  # it may have failed while sessions ended
        here.peers.ask(name, request, seconds=_STUCK + _PATIENCE, progress=progress)
        here.taken_up = name
    except ClusterError as error:
        threading.Thread(target=_tell_why, args=(here, name, error.message), daemon=True).start()  # clients wait
        raise
    finally:
        here.archive_needed = ""
    with contextlib.suppress(ClusterError):
        slot = here.cluster.named(name).slot
        act.query(here, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                        "WHERE slot_name = %s AND NOT active", slot)  # fmt: skip


def _tell_why(here: Here, name: str, why: str) -> None:
    with contextlib.suppress(ClusterError):
        here.peers.ask(name, WhyRequest(why), seconds=5)


def align_sequences(here: Here) -> None:
    """Write every sequence's exact value to the WAL, which otherwise has up to 32 values more.

    No value is used up. Raises OperationError.
    """
    names = act.query(here, "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'")
    for (database,) in names:
        try:
            with here.server.session(str(database)) as cursor:
                cursor.execute(_SEQUENCES)
                for (statement,) in cursor.fetchall():
                    cursor.execute(statement)
        except psycopg2.Error as error:
            raise OperationError(f"sequences of {database}: {str(error).strip()}", hint=_HINT) from error


def _watch_sessions(here: Here) -> None:
    """Cancel running statements on all nodes after the deadline; pgpool-II then ends the idle sessions.

    Only statements are cancelled; sessions stay connected. A COMMIT cannot be cancelled, so no node misses one.
    """
    began, limit = here.draining, here.cluster.drain_seconds
    said = False
    time.sleep(limit)
    over = time.monotonic()
    finishing = min(_FINISHING, (here.cluster.recovery_timeout - limit) / 2)
    while here.draining == began and time.monotonic() < began + SILENCE:
        count = cancel_active(here, _EVER)
        since = time.monotonic() - over
        request = CancelActiveRequest(since if since < finishing else _EVER)
        count += sum(answer.count for answer in here.peers.ask_all(request, seconds=3).values())
        if count and not said:
            log.warning(f"second stage: sessions did not end within {limit:.0f} s, so what they run is cancelled")
            said = True
        time.sleep(_BETWEEN)
    if here.draining == began:
        here.archive_needed = ""


def cancel_active(here: Here, since: float) -> int:
    """Cancel clients' statements, but a writing one only if it began in the last `since` seconds; return the number."""
    with contextlib.suppress(ClusterError):
        return int(act.query(here, _CANCEL, [*Role, "postgres"], since)[0][0])
    return 0


# On the target


def copy(here: Here, source: str, progress: Progress) -> None:
    """Run the first stage: replace this node's data with a copy of `source`, and follow it as a standby."""

    def tell(text: str) -> None:
        progress(text)
        if here.telling is not None:
            here.telling(text)

    here.awaited = 0.0
    here.promoting = True
    try:
        await_joined(here, tell)
        here.remember(held=False, led=0)
        copying.clone(here, source, tell, member=False)
        await_joined(here, tell, seconds=_COPIED_SECONDS)
        here.awaited = _until(here)
        tell("sessions are asked to end; new clients wait")
    except ClusterError as error:
        here.promoting = False
        here.failure = error.message
        raise


def take_up(here: Here, source: str, position: str, term: int, progress: Progress) -> None:
    """Run the second stage: replay up to `position`, the end of the WAL of `source`, and become a primary."""
    here.promoting, here.awaited = True, 0.0
    try:
        _replay(here, source, position, progress)
        # At the end of recovery, PostgreSQL asks the archive for timelines that do not exist. That would delay clients.
        act.query(here, "ALTER SYSTEM SET restore_command = ''")
        act.query(here, "SELECT pg_reload_conf(), pg_sleep(0.02)")
        if not act.query(here, "SELECT pg_promote(true, 4)")[0][0]:
            raise OperationError("PostgreSQL did not end its recovery", hint="its log (pg_lsclusters names it) has why")
        for name in ("primary_conninfo", "primary_slot_name", "restore_command"):
            act.query(here, f"ALTER SYSTEM RESET {name}")
        act.query(here, "SELECT pg_reload_conf()")
        system = int(act.query(here, "SELECT system_identifier FROM pg_control_system()")[0][0])
        here.remember(system=system, copying="", term=max(term, here.record.term))
        here.copies.end()
        here.awaited = _until(here)
    except ClusterError as error:
        here.promoting = False
        here.failure = error.message
        raise


def _replay(here: Here, source: str, position: str, progress: Progress) -> None:
    """Wait for the replay while it makes progress. If the stream delivers nothing for 1 s, read the archive instead.

    Raises OperationError after 4 s without progress.
    """
    before, changed, reported, streams = "", time.monotonic(), time.monotonic(), True
    while True:
        replayed, done = act.query(here, _REPLAYED, position)[0]
        now = time.monotonic()
        if done:
            return
        if replayed != before:
            before, changed = str(replayed), now
        if streams and now - changed > _PATIENCE:
            streams, changed = False, now
            progress(f"{source} does not stream: the rest comes from its archive")
            act.query(here, "ALTER SYSTEM SET primary_conninfo = ''")
            act.query(here, "ALTER SYSTEM RESET restore_command")
            act.query(here, "SELECT pg_reload_conf()")
        if now - changed > _STUCK:
            raise OperationError(f"the last changes of {source} did not arrive", hint=_HINT)
        if now - reported > _PATIENCE:
            reported = now
            progress(f"replaying what is left, from {before} to {position}")
        time.sleep(0.01)


def _until(here: Here) -> float:
    """Return the deadline for pgpool-II's next step on this node; it waits for sessions to end."""
    return time.monotonic() + here.cluster.recovery_timeout + _LATE


def attend(here: Here) -> None:
    """Finish a recovery of this node once pgpool-II has attached it, or abort it after the deadline."""
    _enter_service(here)
    if here.promoting and 0 < here.awaited < time.monotonic():
        here.promoting = False
        here.failure = "pgpool-II did not go on with it"
        log.warning(f"the recovery of this node is given up: {here.failure}")


def _enter_service(here: Here) -> None:
    """Record that this node is in service, once every leading pgpool-II has attached it."""
    facts = here.look_at_all()
    views = [found.pgpool for found in facts.nodes.values() if found.pgpool is not None]
    leading = [view for view in views if view.watchdog in LEADING]
    if here.record.copying or not here.look().writable:
        return
    if leading and all(view.backends.get(here.me.name) is BackendState.UP for view in leading):
        main = rightful_primary(here.cluster, facts)  # None if it has failed since: then this node has every write
        term, led, restart = (main.term, main.led, main.restart) if main else (0, here.record.term, 0)
        here.remember(led=led, restart=restart, apart=False, term=max(term, here.record.term))
        here.promoting = False
        log.info("this node is in service")
