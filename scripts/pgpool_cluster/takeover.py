"""pgpool-II has given a node up: what its failover_command comes to, on the node of the pgpool-II that leads."""

from __future__ import annotations

import time

from . import act, units
from .actions import Action, Dismiss, Follow, Promote, Refuse, Wait
from .cluster import Node
from .decide import failover
from .errors import ClusterError
from .native import goes_apart
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
        text = "; ".join(act.said(action) for action in quiet)
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
    log(f"failover: {act.said(action)}")
    try:
        act.perform(here, action)
    except ClusterError as error:
        log(f"failover: {error.message}")
        return isinstance(action, Follow)
    progress(act.said(action))
    return True
