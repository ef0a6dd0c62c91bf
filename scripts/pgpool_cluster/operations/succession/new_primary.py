"""Make this node the primary, or have another node do so, in a new term."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...decision.actions import CreateSlots, Fence, Promote, Redirect, Resume, Serve, Start, said
from ...decision.facts import replay
from ...decision.facts.facts import NodeFacts
from ...decision.reports.events import EventKind, kind_of, reason
from ...definition.cluster import Service
from ...ground.errors import ClusterError, OperationError
from ...ground.waiting import poll
from ...node import recording
from ...node.failover_times import CLAIMED, PROMOTED
from ...node.node import Here
from ...transport.protocol import PromoteRequest
from .. import pgpool_service, postgresql_service, timelines
from . import claims, cutting, synchrony

_PROMOTE_SECONDS = 60.0
_AGAIN = "the agent decides again in its next round"


def resume(here: Here, action: Resume, *, loss: bool = False) -> None:
    """Start this node's server as the primary again, in a new term. `loss`: as in TermRequest."""
    with _claimed(here, action, loss=loss):
        postgresql_service.start(here, Start(action.node))
        _refuse_overtaken(here, action.term)


def permit(here: Here, action: Resume) -> None:
    """Claim a new term for this node's server, which systemd starts as the primary again afterwards."""
    with _claimed(here, action):
        pass


@contextmanager
def _claimed(here: Here, action: Resume, *, loss: bool = False) -> Iterator[None]:
    """Claim the term; announce from before the claim until after the block that this node is becoming a primary."""
    with here.under_way.claiming(), _announced(here):
        claims.claim(here, action.term, kept=synchrony.kept(here.record), loss=loss)
        yield


@contextmanager
def _announced(here: Here) -> Iterator[None]:
    """Announce in this node's facts that it is becoming a primary."""
    try:
        with here.under_way.promotion():
            yield
    finally:
        here.forget_looks()


def serve(here: Here, action: Serve) -> None:
    """Start this node's server as the only one in service. Nodes that crashed with it are rebuilt from it."""
    restart = here.record.restart or here.record.led
    with here.under_way.claiming():
        claims.claim(here, action.term, restart=restart, apart=False)
        postgresql_service.start(here, Start(action.node))


def promote(here: Here, action: Promote) -> None:
    """Request the promotion of a standby. If two nodes request the same promotion, only one happens."""
    if action.node == here.me.name:
        become_primary(here, action.term, action.excuse)
    else:
        request = PromoteRequest(action.term, action.excuse)
        here.peers.ask(action.node, request, seconds=_PROMOTE_SECONDS + 5)


def become_primary(here: Here, term: int, decided: tuple[int, int] | None = None, *, loss: bool = False) -> None:
    """Claim the term, then end recovery on this node; do nothing if recovery is over. Raises OperationError.

    `decided`: the place of the excuse that the decision rests on; None for an administrator's decision. `loss`: an
    administrator accepts that other nodes may have more data, as in TermRequest.
    """
    with here.under_way.claiming():
        if not in_recovery(here):
            return
        why = "an administrator requested it" if decided is None else reason(Promote(here.me.name, term, decided))
        with recording.timed(here, EventKind.PROMOTE, f"promote {here.me.name} term {term}", why=why):
            refuse_promotion(here, loss=loss)
            times = here.under_way.failover
            times.drop() if decided is None else times.begin(here.look().follows, here.beats.links())
            with _announced(here):
                with here.under_way.upstream:
                    mine = cutting.cut_off(here)
                claims.claim_promotion(here, term, mine, decided=decided, loss=loss)
                times.stage(CLAIMED)
                end_recovery(here)
                timelines.begin(here)
                _refuse_overtaken(here, term)
                times.stage(PROMOTED)
        _create_slots(here, mine)
        if decided is not None or loss:  # otherwise, the switchover redirects every pgpool-II at the same time
            _redirect(here)


def _create_slots(here: Here, mine: NodeFacts) -> None:
    """Create the slots from which the standbys receive, because commits may wait for them. A later round repeats it."""
    missing = tuple(node.slot for node in here.cluster.databases if node != here.me and node.slot not in mine.slots)
    if missing:
        action = CreateSlots(here.me.name, missing)
        with suppress(ClusterError), recording.timed(here, kind_of(action), said(action), why=reason(action)):
            postgresql_service.create_slots(here, action)


def _redirect(here: Here) -> None:
    """Have this node's pgpool-II send writes here at once, because clients wait. If that fails, a later round does."""
    if Service.PGPOOL in here.me.runs and not here.cluster.uses_watchdog:
        action = Redirect(here.me.name, here.me.name)
        with suppress(ClusterError), recording.timed(here, EventKind.REDIRECT, said(action), why=reason(action)):
            pgpool_service.redirect(here, action)


def _refuse_overtaken(here: Here, term: int) -> None:
    """Kill this node's server and raise OperationError if another node has claimed a later term meanwhile."""
    later = here.record.term
    if later > term:
        postgresql_service.fence(here, Fence(here.me.name, f"term {later} has begun"))
        raise OperationError(f"term {later} began while this node became the primary of term {term}", hint=_AGAIN)


def in_recovery(here: Here) -> bool:
    """Return whether this node's server is a standby; raises OperationError if it does not answer."""
    return bool(here.query("SELECT pg_is_in_recovery()")[0][0])


def refuse_promotion(here: Here, *, loss: bool = False) -> None:
    """Raise OperationError if a promotion would stop this node's server, because it cannot replay all of its WAL.

    The same if cluster.yml excludes the node, unless an administrator accepts a `loss`.
    """
    if here.me.nofailover and not loss:
        raise OperationError(f"{here.me.name} is never promoted (nofailover)", hint="pgpoolctl switchover")
    mine = here.look()
    if mine.needs:
        raise OperationError(f"it cannot be promoted: {replay.too_low(mine)}", hint=replay.hint(mine))


def end_recovery(here: Here) -> None:
    """Promote this node's standby and wait until it takes writes; raises OperationError.

    The caller must have claimed the term.
    """
    here.query("SELECT pg_promote(false)")
    if not poll(lambda: not in_recovery(here), seconds=_PROMOTE_SECONDS, pause=0.01):
        raise OperationError("PostgreSQL did not end its recovery", hint="see its log; pg_lsclusters shows the path")
