"""Claim a term for this node, and tell other nodes which term has begun."""

from __future__ import annotations

from dataclasses import replace

from ..decision.actions import Begin, Dismiss, Lead
from ..decision.events import EventKind
from ..decision.excuse import Excuse
from ..decision.facts import ClusterFacts
from ..decision.situation import in_service
from ..ground import log
from ..ground.errors import OperationError
from ..node import recording
from ..node.node import LOOK_SECONDS, Here
from ..transport.protocol import OF_AN_OLDER_PACKAGE, GoOnRequest, TermRequest
from . import synchrony

_GO_ON_SECONDS = 10.0
"""Seconds within which a node in service has collected facts from all others and has sent them a term."""


def claim(
    here: Here, term: int, *, kept: tuple[str, ...] = (), decided: tuple[int, int] | None = None, **changes: object
) -> None:
    """Claim a new term for this node. Raises OperationError unless a majority of nodes records the claim.

    The claim voids the excuses of former primaries, except for `kept`, the names that this node itself has excused.
    `decided`: the place of the excuse that the decision to claim rests on; the claim fails if any node knows a later
    one. `changes` of the record are written together with the claim.
    """
    with recording.timed(here, EventKind.CLAIM, f"claim term {term}"):
        _claim(here, term, kept, decided, changes)


def _claim(
    here: Here, term: int, kept: tuple[str, ...], decided: tuple[int, int] | None, changes: dict[str, object]
) -> None:
    noted = tell(here, term)
    if len(noted) < here.cluster.majority:
        few = f"only {', '.join(noted)} recorded term {term}"
        raise OperationError(few if noted else f"another node has already claimed term {term}", hint="pgpoolctl status")
    if here.cluster.synchronous:
        # From now on, no majority accepts an excuse of an earlier term.
        if decided is not None and max(noted.values()) > decided:
            raise OperationError(
                "the primary has answered since the decision", hint="the agent decides again in its next round"
            )
        older = [name for name, place in noted.items() if place == OF_AN_OLDER_PACKAGE]
        if len(older) + len(synchrony.announce(here, Excuse(term, 0, kept))) < here.cluster.majority:
            raise OperationError(f"too few nodes recorded the start of term {term}", hint="pgpoolctl status")
    here.remember(led=term, **changes)
    log.info(f"this node is the primary of term {term}, known to {', '.join(noted)}")


def tell(here: Here, term: int) -> dict[str, tuple[int, int]]:
    """Send a new term to every node and return the nodes that recorded it, including this one.

    A node records the term only if it knows neither this term nor a later one. The value of each node is the place of
    the latest excuse that it knows, or OF_AN_OLDER_PACKAGE.
    """
    if not here.note_term(term):
        return {}
    request = TermRequest(term, here.cluster.fingerprint, pause=here.record.pause.serial)
    answers = here.peers.ask_all(request, seconds=LOOK_SECONDS)
    places = {name: answer.excuse for name, answer in answers.items() if answer.taken}
    return {here.me.name: here.record.excuse.place, **places}


def lead(here: Here, action: Lead) -> None:
    """Claim a new term for this node, which is a primary already. Raises OperationError without a majority."""
    claim(here, action.term, kept=synchrony.kept(here.record))


def dismiss(here: Here, action: Dismiss) -> None:
    """Send a new term to all reachable nodes. In it, all nodes in service except the dismissed one stay in service."""
    facts = here.look_at_all()
    if here.database is None:
        _have_go_on(here, facts, action.node)
        return
    serving = {found.node for found in in_service(here.cluster, facts)} - {action.node}
    log.warning(f"{action.node} is out of service; in service: {', '.join(sorted(serving))}")
    gone = "" if facts.of(action.node).reachable else action.node
    _tell_service(here, serving, action.term, restart=0, without=gone)


def begin(here: Here, action: Begin) -> None:
    """Send a new term to all reachable nodes. The nodes that are in service now stay in service in it."""
    if here.database is None:
        _have_go_on(here, here.look_at_all(), None)
        return
    found = [one for one in in_service(here.cluster, here.look_at_all()) if one.node not in action.without]
    serving = {one.node for one in found}
    log.warning(f"pgpool-II serves with {', '.join(sorted(serving))}: the other nodes are rebuilt when they return")
    _tell_service(here, serving, action.term, restart=min((one.restart or one.led for one in found), default=0))


def _have_go_on(here: Here, facts: ClusterFacts, gone: str | None) -> None:
    """Ask a node in service to begin the term. That node decides itself, because this one runs no PostgreSQL."""
    serving = [found.node for found in in_service(here.cluster, facts) if found.node != gone]
    if not serving:
        raise OperationError("no reachable node in service can begin a term", hint="pgpoolctl status")
    here.peers.ask(serving[0], GoOnRequest(gone), seconds=_GO_ON_SECONDS)


def _tell_service(here: Here, serving: set[str], term: int, *, restart: int, without: str = "") -> None:
    """Send a new term to all reachable nodes except `without`, and mark the nodes of `serving` as in service in it."""
    others = [name for name in here.peers.peers if name != without]
    news = TermRequest(term, here.cluster.fingerprint, pause=here.record.pause.serial)
    request = replace(news, serves=True, restart=restart)
    noted = here.peers.ask_some([name for name in others if name in serving], request, seconds=LOOK_SECONDS)
    here.peers.ask_some([name for name in others if name not in serving], news, seconds=LOOK_SECONDS)
    here.note_term(term, **({"led": term, "restart": restart, "apart": False} if here.me.name in serving else {}))
    missing = serving - set(noted) - {here.me.name}
    if missing:
        names = ", ".join(sorted(missing))
        raise OperationError(f"{names} did not record term {term}", hint="pgpoolctl status")
