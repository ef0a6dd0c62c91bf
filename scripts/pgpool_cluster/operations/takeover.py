"""Handle failover_command on the node that runs the watchdog leader."""

from __future__ import annotations

import time
from contextlib import nullcontext

from ..decision.actions import Action, Begin, Dismiss, Follow, Promote, Refuse, Wait, said
from ..decision.decide import decide
from ..decision.native import beginning, goes_apart
from ..decision.promotion import failover
from ..decision.situation import Actions
from ..definition.cluster import Node
from ..ground import log
from ..ground.errors import ClusterError, OperationError
from ..machine import units
from ..node.node import Here
from ..transport.peers import Progress
from . import act, new_primary

_FAILOVER_SECONDS = 15.0
"""Seconds for which a failover is retried. After that, the agents continue on their own."""


def fail_over(here: Here, failed: Node, progress: Progress) -> Actions:
    """Promote the right standby in place of `failed`, let the others follow it, and return the last decision.

    While a node waits or refuses, decide again for up to 15 s. A failed action is logged, not raised.
    """
    progress(f"failover: pgpool-II reports node {failed.name} down")
    # Where every node is a primary, pgpool-II does not take part in the choice.
    with nullcontext() if here.cluster.mode.streams else here.under_way.pgpool_busy:
        if failed.name not in here.under_way.silent.value and not here.look_at_all().of(failed.name).reachable:
            _hang_up(here, failed)
        return _until_done(here, failed, progress)


def _hang_up(here: Here, failed: Node) -> None:
    """End this host's sessions with the node. If that fails, the failover continues."""
    try:
        units.hang_up(here.cluster, failed)
    except ClusterError as error:
        log.warning(f"failover of {failed.name}: sessions with it are not ended: {error.message}")


def _until_done(here: Here, failed: Node, progress: Progress) -> Actions:
    deadline = time.monotonic() + _FAILOVER_SECONDS
    before = ""
    while True:
        facts = here.look_at_all()
        actions = failover(here.cluster, failed, facts)
        if goes_apart(here.cluster, here.me, facts):
            _note_apart(here)
        quiet = [action for action in actions if isinstance(action, Wait | Refuse)]
        done = all(_done(here, action, progress) for action in actions)
        if (done and not quiet) or time.monotonic() > deadline:
            return actions
        text = "; ".join(said(action) for action in quiet)
        if text != before:
            log.warning(f"failover of {failed.name}: {text}")
        before = text
        time.sleep(0.5)
        here.forget_looks()


def _note_apart(here: Here) -> None:
    """Record that clients may write to this node alone. If that fails, the agent records it later."""
    try:
        here.remember(apart=True)
    except ClusterError as error:
        log.warning(f"failover: {error.message}")


def _done(here: Here, action: Action, progress: Progress) -> bool:
    """Carry out an action of a failover, and return False if it failed and needs a new decision.

    A failed Follow needs none. Actions other than Promote, Follow and Dismiss are skipped.
    """
    if not isinstance(action, Promote | Follow | Dismiss):
        return True
    log.warning(f"failover: {said(action)}")
    try:
        act.perform(here, action)
    except ClusterError as error:
        log.warning(f"failover: {error.message}")
        return isinstance(action, Follow)
    progress(said(action))
    return True


# On a database node that receives a request from a witness: the witness's pgpool-II leads, and this node decides


_CONFIRM_PAUSE_SECONDS = 0.5
"""Seconds between the two decisions of a node that a witness asks to take over."""


def take_over(here: Here) -> None:
    """Promote this node's standby if two consecutive decisions about a failover of its primary choose it.

    Does nothing if it has been promoted already. Raises OperationError if they do not.
    """
    planned = [action for action in _planned(here) if isinstance(action, Promote) and action.node == here.me.name]
    if planned:
        time.sleep(_CONFIRM_PAUSE_SECONDS)
    if not planned or planned[0] not in _planned(here):
        if here.look().writable:
            return  # its own agent has promoted it in the meantime
        raise OperationError(f"{here.me.name} does not confirm that it must be promoted", hint=_SEES)
    new_primary.become_primary(here, planned[0].term, planned[0].excuse)


def refuse_undecided(here: Here, action: Follow) -> None:
    """Raise OperationError unless this node itself decides to follow that primary."""
    here.forget_looks()
    decided = decide(here.cluster, here.me, here.look_at_all())
    if not any(isinstance(one, Follow) and one.primary == action.primary for one in decided):
        raise OperationError(f"{here.me.name} does not confirm that it must follow {action.primary}", hint=_SEES)


def go_on(here: Here, gone: Node | None) -> None:
    """Begin a term without the node `gone`, or without all nodes out of service, if this node's own facts require it.

    Raises OperationError if they do not.
    """
    here.forget_looks()
    facts = here.look_at_all()
    if here.cluster.mode.streams:
        actions: Actions = ()
    elif gone is not None:
        actions = failover(here.cluster, gone, facts)
    else:
        actions = beginning(here.cluster, here.me, facts)
    wanted = [action for action in actions if isinstance(action, Dismiss | Begin)]
    if not wanted:
        raise OperationError(f"{here.me.name} does not confirm that the other nodes must continue", hint=_SEES)
    for action in wanted:
        act.perform(here, action)


_SEES = "compare pgpoolctl status on both nodes"


def _planned(here: Here) -> Actions:
    here.forget_looks()
    facts = here.look_at_all()
    follows = facts.of(here.me.name).follows
    return failover(here.cluster, here.cluster.named(follows), facts) if follows else ()
