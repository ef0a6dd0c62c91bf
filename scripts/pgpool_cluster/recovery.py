"""Recover a node with streaming replication, with the fewest changes that suffice, and let pgpool-II attach it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from . import copying, postgresql_service, replay
from .actions import Follow, Start
from .cluster import Cluster
from .errors import ClusterError, OperationError
from .facts import LEADING, BackendState, ClusterFacts, NodeFacts, PgpoolFacts, Postgresql, contains
from .node import Here
from .peers import Progress
from .protocol import AttachRequest, DetachRequest, TakeBackRequest
from .situation import in_service, leading_node, leading_pgpools, rightful_primary
from .waiting import poll

_ATTACH_SECONDS = 60.0
_SIGHT_SECONDS = 10.0
_SIGHT_PAUSE_SECONDS = 0.3
_ATTACH_PAUSE_SECONDS = 0.05


def recover(here: Here, progress: Progress, *, force: bool = False) -> str:
    """Make this node a standby of the primary again; raises ClusterError.

    A node in use is refused before any change; with `force`, it is copied nevertheless. Return the node whose pgpool-II
    leads and must attach this node; "" if no leader was reachable.
    """
    primary = _source(here, progress)
    if not force:
        refuse_needless(here.cluster, here.look_at_all(), here.me.name)
    here.remember(held=False)
    _take_out(here, progress, force=force)
    leading = leading_node(here.cluster, here.look_at_all())
    if force:
        copying.clone(here, primary.node, progress)
    else:
        _rebuild(here, primary, progress)
    return leading


def refuse_needless(cluster: Cluster, facts: ClusterFacts, name: str) -> None:
    """Raise OperationError if a node is healthy and every leading pgpool-II sends clients to it."""
    mine, primary = facts.of(name), rightful_primary(cluster, facts)
    if mine.standby and mine.streaming and mine.stalled and not mine.half_copied:
        raise OperationError(f"{name} has its data, but does not replay: {mine.stalled}", hint=replay.hint(mine))
    views = leading_pgpools(cluster, facts)
    if not views or mine.held or any(view.backends.get(name) is not BackendState.UP for view in views):
        return
    if cluster.mode.streams:
        well = primary is not None and mine.standby and mine.streaming and mine.follows == primary.node
        why = f"it receives from {mine.follows}, and pgpool-II sends clients there"
    else:
        well = mine in in_service(cluster, facts)
        why = "it has every write, and pgpool-II sends clients there"
    if well and not mine.half_copied:
        hint = f"pgpoolctl recover --force {name} rebuilds it all the same"
        raise OperationError(f"{name} needs no recovery: {why}", hint=hint)


def sight(here: Here, enough: Callable[[ClusterFacts], object]) -> ClusterFacts:
    """Collect facts until they are `enough`, for at most 10 s: a node that has just booted connects within seconds."""

    def facts_now() -> ClusterFacts:
        here.forget_looks()
        return here.look_at_all()

    def complete(facts: ClusterFacts) -> bool:
        return bool(enough(facts)) or all(facts.of(node.name).reachable for node in here.cluster.databases)

    return poll(facts_now, until=complete, seconds=_SIGHT_SECONDS, pause=_SIGHT_PAUSE_SECONDS)


def _source(here: Here, progress: Progress) -> NodeFacts:
    facts = sight(here, lambda facts: rightful_primary(here.cluster, facts))
    primary = rightful_primary(here.cluster, facts)
    if primary is None:
        hint = "pgpoolctl status shows every node; bring the last primary back first"
        raise OperationError("no primary is in sight to copy from", hint=hint)
    if primary.node == here.me.name:
        hint = "recover the other nodes; pgpoolctl status shows which need it"
        raise OperationError(f"{here.me.name} is the primary, which the others are copied from", hint=hint)
    progress(f"{primary.node} is the primary")
    return primary


def _take_out(here: Here, progress: Progress, *, force: bool) -> None:
    """Detach this node during the recovery, if a pgpool-II answers and sends clients to it."""
    facts = here.look_at_all()
    for node in here.cluster.pgpools:
        believed = facts.of(node.name).pgpool
        mine = facts.of(here.me.name)
        sends = believed is not None and believed.backends.get(here.me.name) is BackendState.UP
        if sends and (force or not mine.streaming):
            progress(f"detaching {here.me.name}")
            with suppress(ClusterError):
                here.on(node.name, DetachRequest(here.me.name, recovering=True), seconds=10)
            return


def _rebuild(here: Here, primary: NodeFacts, progress: Progress) -> None:
    mine = here.look()
    if mine.standby and mine.streaming and mine.follows == primary.node and not mine.half_copied:
        progress(f"{here.me.name} follows {primary.node} already")
        return
    if mine.half_copied or mine.postgresql is Postgresql.ABSENT or not mine.member:
        refuse_to_lose(mine)
        copying.clone(here, primary.node, progress)
        return
    if mine.standby_signal and contains(primary, mine) is not False and _just_start(here, primary, progress):
        return
    copying.rejoin(here, primary.node, progress)


def refuse_to_lose(mine: NodeFacts) -> None:
    """Raise OperationError if the node is not a member and has databases that a copy would replace."""
    if not mine.member and not mine.half_copied and mine.databases:
        names = ", ".join(mine.databases)
        hint = "pg_dump them and drop them first"
        raise OperationError(f"{mine.node} holds databases that no other node has: {names}", hint=hint)


def _just_start(here: Here, primary: NodeFacts, progress: Progress) -> bool:
    """Start a standby that is only down, and return whether it streams from the primary then."""
    try:
        if here.look().postgresql is not Postgresql.UP:
            progress("starting it as it is")
            postgresql_service.start(here, Start(here.me.name))
        postgresql_service.follow(here, Follow(here.me.name, primary.node))
        copying.await_streaming(here, primary.node)
    except ClusterError as error:
        progress(f"starting it is not enough: {error.message}")
        return False
    return True


def await_attached(here: Here, progress: Progress, leading: str = "") -> None:
    """Wait until the leading pgpool-II has attached this node; raises OperationError after 60 s.

    This requests the attachment only once, because the leader's agent also requests it on its own. `leading`: the node
    whose pgpool-II led a moment ago. It receives a request first, before facts are collected.
    """
    progress("waiting for pgpool-II to attach it")
    if leading:
        with suppress(ClusterError):
            here.on(leading, TakeBackRequest(here.me.name), seconds=10)
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
                here.on(next(iter(leaders)), AttachRequest(here.me.name, recovering=True), seconds=20)
            asked = True
        return False

    if not poll(attached, seconds=_ATTACH_SECONDS, pause=_ATTACH_PAUSE_SECONDS):
        reason = f"{here.me.name} is ready, but pgpool-II has not taken it back"
        raise OperationError(reason, hint=f"pgpoolctl attach {here.me.name}")


def _leaders(here: Here) -> dict[str, PgpoolFacts]:
    """Return what the leading pgpool-II believes, by its node; there can be two leaders."""
    views = {name: found.pgpool for name, found in here.look_at_all().nodes.items()}
    return {name: view for name, view in views.items() if view is not None and view.watchdog in LEADING}
