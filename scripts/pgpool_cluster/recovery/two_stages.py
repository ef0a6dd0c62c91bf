"""Recover a node if every node is a primary: have pgpool-II rebuild it in two stages.

pgpool-II controls the recovery (`pcp_recovery_node`). In the first stage, the target copies the main node while clients
write, and then follows it as a standby. In the second stage, pgpool-II accepts no new clients and waits for the
sessions to end. The target replays the remaining WAL and becomes a primary, and pgpool-II attaches it. `target` and
`main_node` have the stages of these two nodes.

The record has `copying` from the first file until the target is a primary. The target is in service (`led`) only once
pgpool-II has attached it, so a recovery that fails in between never leaves a node that counts as having every write.
"""

from __future__ import annotations

import time

from ..decision.facts.facts import BackendState, ClusterFacts, NodeFacts, WatchdogState
from ..decision.recovery_plan import refuse_in_service, refuse_to_lose
from ..decision.situation import in_service, leading_node
from ..definition.cluster import Cluster
from ..ground.errors import ClusterError, OperationError, ServerError
from ..ground.waiting import poll
from ..machine import pgpool
from ..node.node import Here
from ..node.stages import HINT
from ..transport.peers import Progress
from ..transport.protocol import DetachRequest, PcpRecoveryRequest
from .watchdog import await_joined

_DAY_SECONDS = 86400.0
_DETACH_SECONDS = 40.0
_LEADER_SECONDS = 10.0
_LOOK_PAUSE_SECONDS = 0.2
_RETRY_PAUSE_SECONDS = 1.0
_REPORT_SECONDS = 10.0
"""Seconds after which a requester that waits for another request is informed again."""
_BUSY = {"failover is in progress": 20, "already processing": 20, "failed to send start recovery packet": 2}
"""Messages of pgpool-II after which a retry can succeed, and the number of retries for each message.

The last one occurs after the copy, while a watchdog that was cut off reconnects to the others.
"""


def rebuild(here: Here, progress: Progress, *, force: bool = False) -> None:
    """Rebuild this node with pgpool-II's recovery; raises OperationError with the reason of the step that failed.

    A node in service is refused before any change. With `force`, it is rebuilt nevertheless. If that fails, the agent
    repeats it until it succeeds, because the other nodes take writes without this one.
    """
    with here.under_way.rebuilding.request() as mine:
        if mine:
            _rebuild(here, progress, force=force)
    if not mine:
        _await_other(here, progress)


def _await_other(here: Here, progress: Progress) -> None:
    """Wait for the end of a running recovery of this node; raises OperationError if it failed."""
    rebuilding = here.under_way.rebuilding
    progress(f"{here.me.name} is already being rebuilt")
    while not rebuilding.await_other(_REPORT_SECONDS):
        progress(f"{here.me.name} is still being rebuilt")
    if rebuilding.failure:
        raise OperationError(rebuilding.failure, hint=HINT)


def _rebuild(here: Here, progress: Progress, *, force: bool) -> None:
    facts = here.look_until(lambda facts: _serving_others(here, facts))
    if not force:
        refuse_in_service(here.cluster, facts, here.me.name)
    _refuse(here, _serving_others(here, facts), facts.of(here.me.name))
    pooler = _pooler(here)
    if facts.of(here.me.name) in in_service(here.cluster, facts):
        await_joined(here, progress)
        here.remember(led=0)
    here.under_way.rebuilding.begin(progress)
    _take_out(here, pooler)
    progress(f"pgpool-II of {pooler} rebuilds {here.me.name}")
    try:
        here.on(pooler, PcpRecoveryRequest(here.me.name), seconds=_DAY_SECONDS)
    except ClusterError as error:
        aborted = not isinstance(error, ServerError)  # otherwise, only the answer is lost
        raise OperationError(here.under_way.rebuilding.refused(error.message, aborted=aborted), hint=HINT) from error


def _serving_others(here: Here, facts: ClusterFacts) -> list[str]:
    return [found.node for found in in_service(here.cluster, facts) if found.node != here.me.name]


def _refuse(here: Here, serving: list[str], mine: NodeFacts) -> None:
    if not serving:
        hint = "pgpoolctl status shows every node; bring one with all writes back first"
        raise OperationError(f"no other node in service can be the source of a copy for {here.me.name}", hint=hint)
    refuse_to_lose(mine)


def _pooler(here: Here) -> str:
    """Return the node whose pgpool-II must rebuild this one: the leader's, unless that is a witness.

    A leader does not answer for a moment after it has detached a node. Raises OperationError if no pgpool-II leads
    within 10 s.
    """

    def leader() -> tuple[str, ClusterFacts]:
        here.forget_looks()
        facts = here.look_at_all()
        return leading_node(here.cluster, facts), facts

    name, facts = poll(leader, until=lambda found: found[0], seconds=_LEADER_SECONDS, pause=_LOOK_PAUSE_SECONDS)
    if not name:
        raise OperationError("no pgpool-II is the watchdog leader", hint="pgpoolctl status; systemctl status pgpool2")
    return rebuilds(here.cluster, facts, name)


def rebuilds(cluster: Cluster, facts: ClusterFacts, leader: str) -> str:
    """Return the node whose pgpool-II can call the recovery function, because its superuser's password is there.

    Each pgpool-II can run a recovery, and its watchdog informs the others. If the leader's node has no database, return
    the first reachable database node whose pgpool-II is a standby in the watchdog; otherwise the leader
    (template_values.py).
    """
    names = [node.name for node in cluster.databases]
    if leader in names:
        return leader
    views = ((name, facts.of(name).pgpool) for name in names)
    return next((name for name, view in views if view and view.watchdog is WatchdogState.STANDBY), leader)


def _take_out(here: Here, pooler: str) -> None:
    """Detach this node from the pgpool-II that will rebuild it, if necessary; raises OperationError after 40 s."""
    asked = False

    def given_up() -> bool:
        nonlocal asked
        here.forget_looks()
        view = here.look_at_all().of(pooler).pgpool
        if view is not None and view.backends.get(here.me.name) is not BackendState.UP:
            return True
        if view is not None and not asked:
            here.on(pooler, DetachRequest(here.me.name, recovering=True), seconds=_DETACH_SECONDS)
            asked = True
        return False

    if not poll(given_up, seconds=_DETACH_SECONDS, pause=_LOOK_PAUSE_SECONDS):
        raise OperationError(f"pgpool-II of {pooler} does not detach {here.me.name}", hint=HINT)


def pcp_recovery(here: Here, name: str) -> None:
    """Run pcp_recovery_node, and retry while pgpool-II is busy; raises OperationError."""
    number = here.cluster.databases.index(here.cluster.named(name))
    left = dict(_BUSY)
    while True:
        try:
            pgpool.pcp("pcp_recovery_node", "-n", str(number), seconds=_DAY_SECONDS)
        except OperationError as error:
            reason = next((words for words in left if words in error.message), "")
            if not left.get(reason):
                raise
            left[reason] -= 1
            time.sleep(_RETRY_PAUSE_SECONDS)
        else:
            return
