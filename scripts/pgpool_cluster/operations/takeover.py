"""Handle failover_command on the node that runs the watchdog leader, where every node is a primary."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..decision import standstill
from ..decision.actions import Action, Begin, Dismiss, Follow, Promote, Wait, said
from ..decision.decide import decide
from ..decision.native import beginning, goes_apart
from ..decision.promotion import failover
from ..decision.reports.events import EventKind
from ..decision.situation import Actions
from ..definition.cluster import Node
from ..ground import log
from ..ground.errors import ClusterError, OperationError
from ..machine import units
from ..node import recording
from ..node.node import Here
from ..transport.peers import Progress
from . import act, pausing
from .succession import new_primary

_FAILOVER_SECONDS = 15.0
"""Seconds for which a failover is retried. After that, the agents continue on their own."""
_RETRY_SECONDS = 0.5


def fail_over(here: Here, failed: Node, progress: Progress) -> Actions:
    """Let the cluster continue without `failed`, which pgpool-II has detached, and return the last decision.

    After a failed action, which is logged, not raised, decide again for up to 15 s. In streaming replication, do
    nothing: the agents detect lost nodes themselves. There, only a pgpool-II whose configuration an older package has
    written calls failover_command.
    """
    progress(f"failover: pgpool-II reports node {failed.name} down")
    if here.cluster.mode.streams:
        return (Wait(failed.name, "in streaming replication, the agents decide without pgpool-II"),)
    with here.under_way.pgpool_busy:
        facts = here.look_at_all()
        recording.note(
            here, EventKind.GIVEN_UP, f"pgpool-II has given up {failed.name}", why="its failover_command ran"
        )
        pausing.learn(here, facts)
        # Of a node without a sign of life, the agents know already; their next rounds end the sessions with it.
        known = here.under_way.mute.value | here.silent.value
        if failed.name not in known and not facts.of(failed.name).reachable:
            _hang_up(here, failed)
        return _recorded(here, failed, lambda: _until_done(here, failed, progress))


def _recorded(here: Here, failed: Node, work: Callable[[], Actions]) -> Actions:
    """Record the last decision of a failover. An action that failed has an event of its own."""
    began, actions = time.monotonic(), work()
    quiet = "; ".join(said(action) for action in actions if isinstance(action, Wait))
    text = ", ".join(said(action) for action in actions if isinstance(action, Dismiss))
    why = f"pgpool-II has given up {failed.name}"
    if quiet:
        recording.note(here, EventKind.FAILOVER_REFUSED, f"no failover of {failed.name}: {quiet}", why=why)
    elif text:
        seconds = time.monotonic() - began
        recording.note(here, EventKind.FAILOVER, f"failover of {failed.name}: {text}", why=why, seconds=seconds)
    return actions


def _hang_up(here: Here, failed: Node) -> None:
    """End this host's sessions with the node. If that fails, the failover continues."""
    try:
        units.hang_up(here.cluster, failed)
    except ClusterError as error:
        log.warning(f"failover of {failed.name}: sessions with it are not ended: {error.message}")


def _until_done(here: Here, failed: Node, progress: Progress) -> Actions:
    deadline = time.monotonic() + _FAILOVER_SECONDS
    while True:
        facts = here.look_at_all()
        actions = standstill.permitted(failover(here.cluster, failed, facts), here.record.pause)
        if goes_apart(here.cluster, here.me, facts):
            _note_apart(here)
        if all(_done(here, action, progress) for action in actions):
            return actions
        if time.monotonic() > deadline:
            return (*actions, Wait(failed.name, "an action failed; the agents try again"))
        time.sleep(_RETRY_SECONDS)
        here.forget_looks()


def _note_apart(here: Here) -> None:
    """Record that clients may write to this node alone. If that fails, the agent records it later."""
    try:
        here.remember(apart=True)
    except ClusterError as error:
        log.warning(f"failover: {error.message}")


def _done(here: Here, action: Action, progress: Progress) -> bool:
    """Carry out an action of a failover, and return False if it failed and needs a new decision."""
    log.warning(f"failover: {said(action)}")
    try:
        act.perform(here, action)
    except ClusterError as error:
        log.warning(f"failover: {error.message}")
        return False
    progress(said(action))
    return True


# On a database node that receives a request from a witness: the witness's pgpool-II leads, and this node decides


_CONFIRM_PAUSE_SECONDS = 0.5
"""Seconds between the two decisions of a node that a witness asks to take over."""


def take_over(here: Here) -> None:
    """Promote this node's standby if two consecutive decisions about a failover of its primary choose it.

    Does nothing if it has been promoted already. Raises OperationError if they do not.
    """
    refuse_in_a_pause(here)
    planned = [action for action in _planned(here) if isinstance(action, Promote) and action.node == here.me.name]
    if planned:
        time.sleep(_CONFIRM_PAUSE_SECONDS)
    if not planned or planned[0] not in _planned(here):
        if here.look().writable:
            return  # its own agent has promoted it in the meantime
        raise OperationError(f"{here.me.name} does not confirm that it must be promoted", hint=_SEES)
    new_primary.become_primary(here, planned[0].term, planned[0].excuse)


def refuse_in_a_pause(here: Here) -> None:
    """Raise OperationError while the cluster is paused: the decision of another node must not have an effect."""
    if here.record.pause.paused:
        raise OperationError(standstill.described(here.record.pause), hint="pgpoolctl resume")


def refuse_undecided(here: Here, action: Follow) -> None:
    """Raise OperationError unless this node itself decides to follow that primary."""
    refuse_in_a_pause(here)
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
    actions = standstill.permitted(actions, here.record.pause)
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
