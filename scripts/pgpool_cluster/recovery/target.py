"""Recover a node if every node is a primary: the stages on the target, until pgpool-II has attached it."""

from __future__ import annotations

import time

from ..copying import copying
from ..decision.facts.facts import LEADING, BackendState
from ..decision.situation import rightful_primary
from ..ground import log
from ..ground.errors import OperationError
from ..node.node import Here
from ..node.stages import HINT, PATIENCE_SECONDS, STALL_SECONDS
from ..transport.peers import Progress
from .watchdog import await_joined

_COPIED_SECONDS = 600.0
"""Seconds that a complete copy waits for a pgpool-II that has not joined, so that an administrator can restart it."""
_ATTACH_SECONDS = 30.0
"""Seconds that pgpool-II may need in addition to recovery_timeout: for its checkpoints, and to attach the node."""
_REPLAY_PAUSE_SECONDS = 0.01
_PROMOTED = "SELECT pg_promote(true, 4)"
_REPLAYED = "SELECT pg_last_wal_replay_lsn()::text, pg_last_wal_replay_lsn() >= %s::pg_lsn"


def copy(here: Here, source: str, progress: Progress) -> None:
    """Run the first stage: replace this node's data with a copy of `source`, and follow it as a standby."""

    def tell(text: str) -> None:
        progress(text)
        here.under_way.rebuilding.report(text)

    with here.under_way.rebuilding.stage(_next_stage_seconds(here)):
        await_joined(here, tell)
        here.remember(held=False, led=0)
        copying.clone(here, source, tell, member=False)
        await_joined(here, tell, seconds=_COPIED_SECONDS)
        tell("waiting for sessions to end; new clients wait")


def take_up(here: Here, source: str, position: str, term: int, progress: Progress) -> None:
    """Run the second stage: replay up to `position`, the end of the WAL of `source`, and become a primary."""
    with here.under_way.rebuilding.stage(_next_stage_seconds(here)):
        _replay(here, source, position, progress)
        # At the end of recovery, PostgreSQL asks the archive for timelines that do not exist. That would delay clients.
        here.query("ALTER SYSTEM SET restore_command = ''")
        here.query("SELECT pg_reload_conf(), pg_sleep(0.02)")
        if not here.query(_PROMOTED)[0][0]:
            raise OperationError(
                "PostgreSQL did not end its recovery", hint="see its log; pg_lsclusters shows the path"
            )
        for name in ("primary_conninfo", "primary_slot_name", "restore_command"):
            here.query(f"ALTER SYSTEM RESET {name}")
        here.query("SELECT pg_reload_conf()")
        system = int(here.query("SELECT system_identifier FROM pg_control_system()")[0][0])
        here.remember(system=system, copying="", term=max(term, here.record.term))
        here.under_way.copies.end()


def _replay(here: Here, source: str, position: str, progress: Progress) -> None:
    """Wait for the replay while it makes progress. If the stream delivers nothing for 1 s, read the archive instead.

    Raises OperationError after 4 s without progress.
    """
    before, changed, reported, streams = "", time.monotonic(), time.monotonic(), True
    while True:
        replayed, done = here.query(_REPLAYED, position)[0]
        now = time.monotonic()
        if done:
            return
        if replayed != before:
            before, changed = str(replayed), now
        if streams and now - changed > PATIENCE_SECONDS:
            streams, changed = False, now
            progress(f"{source} does not stream: reading the remaining WAL from its archive")
            here.query("ALTER SYSTEM SET primary_conninfo = ''")
            here.query("ALTER SYSTEM RESET restore_command")
            here.query("SELECT pg_reload_conf()")
        if now - changed > STALL_SECONDS:
            raise OperationError(f"the last changes of {source} did not arrive", hint=HINT)
        if now - reported > PATIENCE_SECONDS:
            reported = now
            progress(f"replaying the remaining WAL, from {before} to {position}")
        time.sleep(_REPLAY_PAUSE_SECONDS)


def _next_stage_seconds(here: Here) -> float:
    """Return the time limit for pgpool-II's next step on this node; it waits for sessions to end."""
    return here.cluster.recovery_timeout + _ATTACH_SECONDS


def attend(here: Here) -> None:
    """Finish a recovery of this node once pgpool-II has attached it, or abort it after the deadline."""
    rebuilding = here.under_way.rebuilding
    _enter_service(here)
    if rebuilding.overdue:
        rebuilding.fail("pgpool-II did not continue it")
        log.warning(f"the recovery of this node was aborted: {rebuilding.failure}")


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
        here.under_way.rebuilding.end()
        log.info("this node is in service")
