"""Attach a node to pgpool-II or detach it; any node accepts the request."""

from __future__ import annotations

import operator
from contextlib import suppress

from ..decision.actions import Attach
from ..decision.facts import replay
from ..decision.facts.facts import LEADING, BackendState, ClusterFacts, PgpoolFacts
from ..decision.reports.events import EventKind
from ..decision.situation import in_service, rightful_primary
from ..definition.cluster import Node, Service
from ..ground.errors import ClusterError, OperationError
from ..ground.waiting import poll
from ..machine import pgpool
from ..node import recording
from ..node.node import Here
from ..transport.peers import Progress
from ..transport.protocol import AttachRequest, DetachRequest, Done, HoldRequest, LetGoRequest, TakeBackRequest
from . import pgpool_service

_ELSEWHERE_SECONDS = 40.0
_HOLD_SECONDS = 5.0
_ATTACH_SECONDS = 60.0
_ATTACH_PAUSE_SECONDS = 0.05
_TAKE_BACK_SECONDS = 10.0
_REQUEST_SECONDS = 20.0
_EVERYWHERE_SECONDS = 20.0
_EVERYWHERE_PAUSE_SECONDS = 0.1


def attach(here: Here, request: AttachRequest) -> Done:
    """Attach a node that has every write, and return when every reachable pgpool-II sends clients to it.

    `recovering`: this is a step of a recovery, which waits for the effect itself. Raises OperationError.
    """
    node = here.cluster.named(request.node)
    facts = here.look_at_all()
    elsewhere = _through_pgpool(here, facts)
    if elsewhere is not None:
        return here.peers.ask(elsewhere.name, request, seconds=_ELSEWHERE_SECONDS)
    primary = rightful_primary(here.cluster, facts)
    found = facts.of(node.name)
    hint = f"pgpoolctl recover {node.name}"
    if not here.cluster.mode.streams:
        if found not in in_service(here.cluster, facts):
            raise OperationError(f"{node.name} does not have every write", hint=hint)
    elif primary is not None and found is not primary and not (found.standby and found.streaming):
        raise OperationError(f"{node.name} does not follow {primary.node}", hint=hint)
    elif found.stalled:
        raise OperationError(f"{node.name} does not replay: {found.stalled}", hint=replay.hint(found))
    here.on(node.name, HoldRequest(hold=False), seconds=_HOLD_SECONDS)
    with recording.timed(here, EventKind.ATTACH, f"attach {node.name}", why=_why(recovering=request.recovering)):
        pgpool_service.attach(here, Attach(node.name))
        _have_others(here, TakeBackRequest(node.name))
    here.forget_looks()
    if not request.recovering:
        _await_everywhere(here, node, up=True)
    return Done()


def detach(here: Here, request: DetachRequest) -> Done:
    """Detach a node, and return when no reachable pgpool-II sends clients to it or ends sessions because of that.

    `recovering` is as in `attach`, and also permits detaching the primary. Raises OperationError.
    """
    node = here.cluster.named(request.node)
    facts = here.look_at_all()
    elsewhere = _through_pgpool(here, facts)
    if elsewhere is not None:
        return here.peers.ask(elsewhere.name, request, seconds=_ELSEWHERE_SECONDS)
    primary = rightful_primary(here.cluster, facts)
    streams = here.cluster.mode.streams
    if not streams:
        _refuse_last(here, node, facts)
    elif primary is not None and primary.node == node.name and not request.recovering:
        hint = "to promote another node: pgpoolctl switchover"
        raise OperationError(f"{node.name} is the primary, which receives all writes", hint=hint)
    if streams and facts.of(node.name).reachable and not request.recovering:
        here.on(node.name, HoldRequest(hold=True), seconds=_HOLD_SECONDS)
    with recording.timed(here, EventKind.DETACH, f"detach {node.name}", why=_why(recovering=request.recovering)):
        let_go(here, node)
        _have_others(here, LetGoRequest(node.name))
    here.forget_looks()
    if not request.recovering:
        _await_everywhere(here, node, up=False)
    return Done()


def _why(*, recovering: bool) -> str:
    return "it is a step of a recovery or a switchover" if recovering else "an administrator requested it"


def _have_others(here: Here, request: TakeBackRequest | LetGoRequest) -> None:
    """Have the other pgpool-IIs do the same, unless a watchdog informs them; their agents do so later, too."""
    if not here.cluster.uses_watchdog:
        others = [node.name for node in here.cluster.pgpools if node != here.me]
        here.peers.ask_some(others, request, seconds=_TAKE_BACK_SECONDS)


def let_go(here: Here, node: Node) -> None:
    """Detach a node, which may be detached already, from this node's pgpool-II; raises OperationError."""
    try:
        pgpool.detach(here.cluster, node)
    except OperationError as error:
        if pgpool.DOWN_ALREADY not in error.message:
            raise


def _through_pgpool(here: Here, facts: ClusterFacts) -> Node | None:
    """Return the node whose pgpool-II must carry out the request, or None for this node."""
    up = [node for node in here.cluster.pgpools if facts.of(node.name).pgpool is not None]
    if not up:
        raise OperationError("no pgpool-II answers", hint="pgpoolctl status; systemctl status pgpool2")
    return None if here.me in up else up[0]


def _await_everywhere(here: Here, node: Node, *, up: bool) -> None:
    """Wait until every pgpool-II that answers has the new state.

    Each pgpool-II ends sessions directly after it has changed the state (pgpool_main.c, sync_backend_from_watchdog). A
    client that connects after this wait therefore keeps its session. Raises OperationError after 20 s.
    """
    others = poll(
        lambda: _of_another_mind(here, node, up=up),
        until=operator.not_,
        seconds=_EVERYWHERE_SECONDS,
        pause=_EVERYWHERE_PAUSE_SECONDS,
    )
    if others:
        sends = "does not send" if up else "still sends"
        text = f"pgpool-II of {' and '.join(others)} {sends} clients to {node.name}"
        raise OperationError(text, hint="pgpoolctl status shows every node; run the same command again")


def _of_another_mind(here: Here, node: Node, *, up: bool) -> list[str]:
    return [name for name, view in _views(here).items() if (view.backends.get(node.name) is BackendState.UP) is not up]


def _views(here: Here) -> dict[str, PgpoolFacts]:
    """Return the present views of all pgpool-IIs that answer, by node."""
    return {name: found.pgpool for name, found in here.look_at_all(fresh=True).nodes.items() if found.pgpool}


def _refuse_last(here: Here, node: Node, facts: ClusterFacts) -> None:
    serving = [found.node for found in in_service(here.cluster, facts)]
    if serving == [node.name]:
        hint = "recover another node first; pgpoolctl status shows every node"
        raise OperationError(f"{node.name} is the only node that has every write", hint=hint)


def await_attached(here: Here, progress: Progress) -> None:
    """Wait until the leading pgpool-II has attached this node, or every one without a watchdog.

    Raises OperationError after 60 s. With a watchdog, this requests the attachment only once, because the leader's
    agent also requests it on its own.
    """
    progress("waiting for pgpool-II to attach it")
    if not here.cluster.uses_watchdog:
        _await_everywhere_attached(here)
        return
    asked = False

    def attached() -> bool:
        nonlocal asked
        here.forget_looks()
        leaders = _leaders(here)
        if any(view.backends.get(here.me.name) is BackendState.UP for view in leaders.values()):
            return True
        if leaders and not asked:
            with suppress(ClusterError):
                here.on(next(iter(leaders)), AttachRequest(here.me.name, recovering=True), seconds=_REQUEST_SECONDS)
            asked = True
        return False

    if not poll(attached, seconds=_ATTACH_SECONDS, pause=_ATTACH_PAUSE_SECONDS):
        reason = f"{here.me.name} is ready, but pgpool-II has not attached it"
        raise OperationError(reason, hint=f"pgpoolctl attach {here.me.name}")


def _await_everywhere_attached(here: Here) -> None:
    """Have every pgpool-II attach this node, and wait for that; raises OperationError after 60 s."""
    _attach_everywhere(here, here.me.name)
    others = poll(
        lambda: _of_another_mind(here, here.me, up=True),
        until=operator.not_,
        seconds=_ATTACH_SECONDS,
        pause=_EVERYWHERE_PAUSE_SECONDS,
    )
    if others:
        reason = f"{here.me.name} is ready, but pgpool-II of {' and '.join(others)} has not attached it"
        raise OperationError(reason, hint=f"pgpoolctl attach {here.me.name}")


def await_detached(here: Here) -> None:
    """Have every pgpool-II detach this node, and wait until each one that answers has; raises OperationError.

    The agents attach it again unless its facts say that it takes no reads.
    """
    if Service.PGPOOL in here.me.runs and here.look().pgpool is not None:
        let_go(here, here.me)
    _have_others(here, LetGoRequest(here.me.name))
    _await_everywhere(here, here.me, up=False)


def _attach_everywhere(here: Here, name: str) -> None:
    """Have every pgpool-II attach a node. One that fails is left to its own agent."""
    if Service.PGPOOL in here.me.runs:
        with suppress(ClusterError):
            pgpool_service.attach(here, Attach(name))
    _have_others(here, TakeBackRequest(name))


def attach_standbys(here: Here, primary: str) -> None:
    """Have every pgpool-II attach the standbys of a new primary, which a redirection has detached.

    The agents do so as well, but not in a pause.
    """
    for found in here.look_at_all(fresh=True).members(here.cluster):
        if found.standby and found.streaming and found.follows == primary and not (found.held or found.stalled):
            _attach_everywhere(here, found.node)


def await_redirected(here: Here, primary: str) -> None:
    """Wait until every pgpool-II that answers sends writes to the primary; raises OperationError after 20 s."""
    others = poll(
        lambda: [name for name, view in _views(here).items() if view.primary != primary],
        until=operator.not_,
        seconds=_EVERYWHERE_SECONDS,
        pause=_EVERYWHERE_PAUSE_SECONDS,
    )
    if others:
        reason = f"{primary} is the primary, but pgpool-II of {' and '.join(others)} does not send writes to it yet"
        raise OperationError(reason, hint="the agents try again; pgpoolctl wait returns when clients can write")


def _leaders(here: Here) -> dict[str, PgpoolFacts]:
    """Return what the leading pgpool-II believes, by its node; there can be two leaders."""
    views = {name: found.pgpool for name, found in here.look_at_all().nodes.items()}
    return {name: view for name, view in views.items() if view is not None and view.watchdog in LEADING}
