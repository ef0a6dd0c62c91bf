"""pgpool-II has given a node up: what its failover_command comes to, on the node of the pgpool-II that leads."""

from __future__ import annotations

import time

from . import act, units
from .actions import Action, Begin, Dismiss, Follow, Promote, Refuse, Wait, said
from .cluster import Node
from .decide import decide, failover
from .errors import ClusterError, OperationError
from .native import beginning, goes_apart
from .node import Here, log
from .peers import Progress
from .situation import Actions

_SECONDS = 15.0
"""How long it is tried for; later, the agents go on by themselves."""


def fail_over(here: Here, failed: Node, progress: Progress) -> Actions:
    """Promote the right standby in place of `failed`, let the others follow it, and return what there was to do.

    What a node has to wait for, or refuses, is looked at again for 15 s; no action that fails is an error here.
    """
    progress(f"failover: node {failed.name} is down for pgpool-II")
    here.pgpool_busy = not here.cluster.mode.streams  # where it has no say in who takes over
    try:
        if failed.name not in here.silent and not here.look_at_all().of(failed.name).reachable:
            _hang_up(here, failed)
        return _until_done(here, failed, progress)
    finally:
        here.pgpool_busy = False


def _hang_up(here: Here, failed: Node) -> None:
    """End this host's sessions with the node; a failover goes on where that fails."""
    try:
        units.hang_up(here.cluster, failed)
    except ClusterError as error:
        log(f"failover of {failed.name}: sessions with it are not ended: {error.message}")


def _until_done(here: Here, failed: Node, progress: Progress) -> Actions:
    deadline = time.monotonic() + _SECONDS
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
            log(f"failover of {failed.name}: {text}")
        before = text
        time.sleep(0.5)
        here.forget_looks()


def _note_apart(here: Here) -> None:
    """Note that clients may write here alone; its agent notes it again where that fails now."""
    try:
        here.remember(apart=True)
    except ClusterError as error:
        log(f"failover: {error.message}")


def _done(here: Here, action: Action, progress: Progress) -> bool:
    """Promote or follow; False where it is worth another look. Who does not follow now does so by itself later."""
    if not isinstance(action, Promote | Follow | Dismiss):
        return True
    log(f"failover: {said(action)}")
    try:
        act.perform(here, action)
    except ClusterError as error:
        log(f"failover: {error.message}")
        return isinstance(action, Follow)
    progress(said(action))
    return True


# On a database node that a witness asks: its pgpool-II leads, and what comes of that is decided here


_MOMENT = 0.5
"""Seconds between two looks of a node that is asked to take over."""


def take_over(here: Here) -> None:
    """Promote this node's standby if a failover of the node that it follows comes to that, by two looks.

    Raises OperationError where it does not.
    """
    planned = [action for action in _planned(here) if isinstance(action, Promote) and action.node == here.me.name]
    if planned:
        time.sleep(_MOMENT)
    if not planned or planned[0] not in _planned(here):
        raise OperationError(f"{here.me.name} does not see that it is to take over", hint=_SEES)
    act.become_primary(here, planned[0].term, planned[0].excuse)


def refuse_undecided(here: Here, action: Follow) -> None:
    """Raise OperationError where this node's own decision is not to follow that primary."""
    here.forget_looks()
    if action not in decide(here.cluster, here.me, here.look_at_all()):
        raise OperationError(f"{here.me.name} does not see that it is to follow {action.primary}", hint=_SEES)


def go_on(here: Here, gone: Node | None) -> None:
    """Begin a term without the node `gone`, or without all that are not in service, if that is what is to be done.

    Raises OperationError where it is not, by what this node sees.
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
        raise OperationError(f"{here.me.name} does not see that the others are to go on", hint=_SEES)
    for action in wanted:
        act.perform(here, action)


_SEES = "pgpoolctl status, here and there, shows what each node sees"


def _planned(here: Here) -> Actions:
    here.forget_looks()
    facts = here.look_at_all()
    follows = facts.of(here.me.name).follows
    return failover(here.cluster, here.cluster.named(follows), facts) if follows else ()
