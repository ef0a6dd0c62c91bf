"""Decide for the pgpool-II of a node: start it, and attach or detach nodes if it leads. Pure."""

from __future__ import annotations

from . import fencing, native
from .actions import Action, Attach, Detach, StartPgpool, StopPgpool
from .facts.facts import BackendState, NodeFacts, Postgresql, contains
from .situation import Actions, Situation, leads, silent


def of_pgpool(situation: Situation) -> Actions:
    """Decide for pgpool-II: start it once there is a database to serve; the leader then attaches and detaches nodes."""
    pgpool = situation.mine.pgpool
    serving = situation.primary is not None
    if situation.cluster.mode.streams and fencing.is_due(situation.cluster, situation.policy.alone_seconds):
        return (StopPgpool(situation.name, fencing.REASON),) if pgpool is not None else ()
    if pgpool is None and serving and not situation.cluster.mode.streams:
        return native.start_pgpool(situation)
    if pgpool is None:
        return (StartPgpool(situation.name),) if serving else ()
    if not situation.cluster.mode.streams:
        beliefs = native.beliefs(situation, pgpool) if leads(pgpool) and serving else ()
        return native.apart(situation, pgpool) + beliefs
    if not serving or not leads(pgpool):
        return ()
    detached: list[Action] = []
    attached: list[Action] = []
    for node in situation.cluster.databases:
        member, believed = situation.facts.of(node.name), pgpool.backends.get(node.name)
        unfit = _unfit(situation, member)
        if believed is BackendState.UP and unfit:
            detached.append(Detach(node.name, unfit))
        if believed in (BackendState.DOWN, BackendState.UNUSED) and _fit(situation, member):
            attached.append(Attach(node.name))
    return (*detached, *attached)


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
