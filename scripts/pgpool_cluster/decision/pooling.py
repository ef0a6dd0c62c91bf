"""Decide for the pgpool-II of a node: start it, attach and detach nodes, and name the primary. Pure.

In streaming replication, each agent informs the pgpool-II of its own node. Where a watchdog makes them agree, only the
node of the leading one does.
"""

from __future__ import annotations

from . import fencing, native
from .actions import Action, Attach, Detach, Redirect, StartPgpool, StopPgpool
from .facts.facts import BackendState, NodeFacts, PgpoolFacts, Postgresql, WatchdogState, contains
from .situation import Actions, Situation, leads, silent


def of_pgpool(situation: Situation) -> Actions:
    """Decide for pgpool-II: start it once there is a database to serve; then attach and detach nodes."""
    if not situation.cluster.mode.streams:
        return native.of_pgpool(situation)
    pgpool, primary = situation.mine.pgpool, situation.primary
    if fencing.is_due(situation.cluster, situation.policy.alone_seconds):
        return (StopPgpool(situation.name, fencing.REASON),) if pgpool is not None else ()
    if pgpool is None:
        return (StartPgpool(situation.name),) if primary is not None else ()
    if primary is None or not leads(pgpool):
        return ()
    if _is_redirected(primary, pgpool):
        return (Redirect(situation.name, primary.node),)  # nothing comes before it, because clients wait for it
    return _changes(situation, pgpool)


def _changes(situation: Situation, pgpool: PgpoolFacts) -> Actions:
    """Return which nodes pgpool-II must detach, and then which it must attach."""
    detached: list[Action] = []
    attached: list[Action] = []
    for node in situation.cluster.databases:
        member, believed = situation.facts.of(node.name), pgpool.backends.get(node.name)
        unfit = _unfit(situation, member)
        if believed is BackendState.UP and unfit:
            certain = not member.up and member.postgresql is not Postgresql.HANGING
            detached.append(Detach(node.name, unfit, certain=certain))
        if believed in (BackendState.DOWN, BackendState.UNUSED) and _fit(situation, member):
            attached.append(Attach(node.name))
    return (*detached, *attached)


def _is_redirected(primary: NodeFacts, pgpool: PgpoolFacts) -> bool:
    """Return whether pgpool-II must send writes to another node. With a watchdog, it searches for that node."""
    known = pgpool.backends.get(primary.node) is BackendState.UP
    return pgpool.watchdog is WatchdogState.ALONE and known and pgpool.primary != primary.node


def _fit(situation: Situation, member: NodeFacts) -> bool:
    """Return whether a node may serve clients: the primary, or a standby that streams from it and replays."""
    primary = situation.primary
    if primary is None or not member.member or member.half_copied or not member.up:
        return False
    if member.held and member is not primary:
        return False
    receives = member.standby and member.streaming and member.follows == primary.node
    return member is primary or (receives and not member.stalled)


def _unfit(situation: Situation, member: NodeFacts) -> str:
    """Return why a node must not serve clients; "" if it may, or if its state is unknown."""
    primary = situation.primary
    if primary is None or member is primary or _fit(situation, member):
        return ""
    if not member.up:
        return _down(situation, member)
    if member.held:
        return "an administrator detached it"
    if member.writable:
        return f"it accepts writes, but {primary.node} is the primary"
    if contains(primary, member) is False:
        return f"its data has diverged from that of {primary.node}"
    return member.stalled if member.follows == primary.node else ""


def _down(situation: Situation, member: NodeFacts) -> str:
    """Return why a node whose server does not answer must not serve clients; "" if it may be about to answer."""
    if not member.reachable:
        return "it shows no sign of life" if silent(situation.cluster, situation.facts, member.node) else ""
    return f"its PostgreSQL is {member.postgresql}" if member.postgresql in _ENDED else ""


_ENDED = (Postgresql.DOWN, Postgresql.STOPPED, Postgresql.ABSENT, Postgresql.HANGING)
