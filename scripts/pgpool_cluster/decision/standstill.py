"""Decide what goes on while an administrator has paused the cluster. Pure."""

from __future__ import annotations

from ..definition.cluster import Cluster
from .actions import (
    Action,
    AwaitRecovery,
    Begin,
    CreateSlots,
    Dismiss,
    GiveUpPlace,
    Redirect,
    Refuse,
    StandApart,
    StartPgpool,
    Wait,
    said,
)
from .facts.facts import ClusterFacts
from .facts.pause import NO_PAUSE, Pause

_GOES_ON = (Wait, AwaitRecovery, Refuse, GiveUpPlace, StandApart, Dismiss, StartPgpool, CreateSlots, Redirect)
"""The actions that a pause does not hold back.

Three of them record that a node of native replication lacks writes. Without the record, that node could serve later
with data that lacks acknowledged writes. StartPgpool lets a host that was rebooted serve again. CreateSlots and
Redirect let standbys and clients follow a primary that an administrator has chosen during the pause.
"""


def latest(cluster: Cluster, me: str, facts: ClusterFacts) -> Pause:
    """Return the latest record of node `me` and the database nodes in sight. A witness alone pauses nothing."""
    names = {me, *(node.name for node in cluster.databases)}
    found = [one.pause for one in (facts.of(name) for name in names) if one.reachable and one.pause is not None]
    return max(found, key=lambda one: one.place, default=NO_PAUSE)


def unaware(cluster: Cluster, facts: ClusterFacts) -> tuple[str, ...]:
    """Return the reachable nodes whose package is older than pauses, so that they would decide during a pause."""
    found = [facts.of(node.name) for node in cluster.nodes]
    return tuple(one.node for one in found if one.reachable and one.pause is None)


def permitted(actions: tuple[Action, ...], pause: Pause) -> tuple[Action, ...]:
    """Return the actions that may be carried out. A pgpool-II whose start needs a new term first does not start."""
    if not pause.paused:
        return actions
    begins = any(isinstance(action, Begin) for action in actions)
    goes_on = [action for action in actions if isinstance(action, _GOES_ON)]
    return tuple(action for action in goes_on if not (begins and isinstance(action, StartPgpool)))


def note(pause: Pause, held: tuple[Action, ...] = ()) -> str:
    """Return the note of a node during a pause, with the actions that the pause holds back; "" without a pause."""
    if not pause.paused:
        return ""
    waiting = f"; held back: {', '.join(said(action) for action in held)}" if held else ""
    return f"{described(pause)}{waiting}; hint: pgpoolctl resume"


def described(pause: Pause) -> str:
    """Return that an administrator has paused the cluster, and why."""
    by, why = f" by {pause.by}" if pause.by else "", f": {pause.reason}" if pause.reason else ""
    return f"the cluster is paused{by}{why}"
