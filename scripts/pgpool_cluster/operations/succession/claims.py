"""Claim a term for this node, and tell other nodes which term has begun."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from ...decision.actions import Begin, Dismiss, Lead
from ...decision.facts.excuse import Excuse
from ...decision.facts.facts import ClusterFacts, Lsn, NodeFacts
from ...decision.promotion import able_to_acknowledge
from ...decision.reports.events import EventKind
from ...decision.situation import in_service
from ...ground import log
from ...ground.errors import OperationError
from ...node import recording
from ...node.node import LOOK_SECONDS, Here
from ...transport.protocol import OF_AN_OLDER_PACKAGE, GoOnRequest, TermAnswer, TermRequest
from .. import timelines
from . import synchrony

_AGAIN = "the agent decides again in its next round"
_GO_ON_SECONDS = 10.0
"""Seconds within which a node in service has collected facts from all others and has sent them a term."""


def claim(here: Here, term: int, *, kept: tuple[str, ...] = (), loss: bool = False, **changes: object) -> None:
    """Claim a new term for this node. Raises OperationError unless a majority of nodes records the claim.

    The claim voids the excuses of former primaries, except for `kept`, the names that this node itself has excused.
    `loss`: as in TermRequest. `changes` of the record are written together with the claim.
    """
    with _recorded(here, term):
        noted = _noted(here, term, loss=loss)
        _void_excuses(here, term, noted, kept)
        _begin(here, term, noted, changes)


def claim_promotion(
    here: Here, term: int, mine: NodeFacts, *, decided: tuple[int, int] | None = None, loss: bool = False
) -> None:
    """Claim a new term for this standby, which is about to be promoted.

    `mine`: its facts after it was cut off from its primary. The nodes that record the term give up what they
    acknowledge to a former primary. Raises OperationError unless a majority of nodes records the claim, that primary
    can acknowledge nothing any more, and no other standby has received more than this one. `loss`: an administrator
    does without the last two, as in TermRequest. `decided`: the place of the excuse that the decision to promote rests
    on; the claim fails if any node knows a later one.
    """
    with _recorded(here, term):
        noted = _noted(here, term, cut=True, loss=loss)
        if not loss:
            _refuse_unsafe(here, mine, noted)
        latest = max(answer.excuse for answer in noted.values())
        if here.cluster.synchronous and decided is not None and latest > decided:
            raise OperationError("the primary has answered since the decision", hint=_AGAIN)
        _void_excuses(here, term, noted, ())
        # The promotion may give the next timeline a number that another primary has already used.
        _begin(here, term, noted, {"origins": timelines.received(here, mine)})


def _recorded(here: Here, term: int) -> AbstractContextManager[object]:
    return recording.timed(here, EventKind.CLAIM, f"claim term {term}")


def _noted(here: Here, term: int, *, cut: bool = False, loss: bool = False) -> dict[str, TermAnswer]:
    """Send the term to every node, and return the answers of a majority; raises OperationError without one."""
    noted = tell(here, term, cut=cut, loss=loss)
    if len(noted) < here.cluster.majority:
        few = f"only {', '.join(noted)} recorded term {term}"
        raise OperationError(few if noted else f"another node has already claimed term {term}", hint="pgpoolctl status")
    return noted


def _void_excuses(here: Here, term: int, noted: Mapping[str, TermAnswer], kept: tuple[str, ...]) -> None:
    """Have a majority record the first excuse of the term; from then on, no majority accepts one of an earlier term."""
    if not here.cluster.synchronous:
        return
    older = [name for name, answer in noted.items() if answer.excuse == OF_AN_OLDER_PACKAGE]
    if len(older) + len(synchrony.announce(here, Excuse(term, 0, kept))) < here.cluster.majority:
        raise OperationError(f"too few nodes recorded the start of term {term}", hint="pgpoolctl status")


def _begin(here: Here, term: int, noted: Mapping[str, TermAnswer], changes: Mapping[str, object]) -> None:
    if not here.note_lead(term, **changes):
        raise OperationError(f"term {here.record.term} began during the claim of term {term}", hint=_AGAIN)
    log.info(f"this node is the primary of term {term}, known to {', '.join(noted)}")


def tell(here: Here, term: int, *, cut: bool = False, loss: bool = False) -> dict[str, TermAnswer]:
    """Send a new term to every node and return the answers of those that recorded it, including this one.

    A node records the term only if it knows neither this term nor a later one. `cut`, `loss`: as in TermRequest.
    """
    if not here.note_term(term, **({"loss": term} if loss else {})):
        return {}
    request = TermRequest(term, here.cluster.fingerprint, cut=cut, loss=loss, pause=here.record.pause.serial)
    answers = here.peers.ask_all(request, seconds=LOOK_SECONDS)
    excuse = here.record.excuse
    own = TermAnswer(taken=True, excuse=excuse.place, excused=excuse.names, cut=cut or None)
    return {here.me.name: own, **{name: answer for name, answer in answers.items() if answer.taken}}


def _refuse_unsafe(here: Here, mine: NodeFacts, noted: Mapping[str, TermAnswer]) -> None:
    """Raise OperationError if a former primary may still acknowledge commits, or if another standby has received more.

    A node whose package is older does not report `cut`, and counts as before nodes reported it. Any two majorities have
    a node in common, so the latest excuse of these nodes is the latest that a majority has recorded.
    """
    cut = [name for name, answer in noted.items() if answer.cut is not False]
    latest = max(noted.values(), key=lambda answer: answer.excuse)
    able = able_to_acknowledge(here.cluster, cut, latest.excused)
    if able:
        reason = f"{', '.join(able)} may still acknowledge commits to a former primary"
        raise OperationError(reason, hint="bring them back, and the failover continues automatically")
    end = (mine.timeline or 0, mine.position or Lsn(0))
    ends = {name: (answer.timeline or 0, answer.position) for name, answer in noted.items()}
    ahead = [name for name, (timeline, position) in ends.items() if position and (timeline, position) > end]
    if not here.cluster.synchronous:  # a standby that is never promoted has no acknowledged commit for itself
        ahead = [name for name in ahead if not here.cluster.named(name).nofailover]
    if ahead:
        raise OperationError(f"{', '.join(ahead)} received more WAL than this node", hint=_AGAIN)


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
