"""Change the primary as planned: stop it, and promote a standby that has all of its WAL."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from ..copying import copying
from ..decision.actions import Promote, Resume
from ..decision.decide import decide
from ..decision.facts import matching, replay
from ..decision.facts.facts import ClusterFacts, NodeFacts, Postgresql, contains, same_timeline
from ..decision.promotion import choose_new_primary
from ..decision.situation import rank, rightful_primary
from ..definition.cluster import Cluster
from ..ground.errors import ClusterError, OperationError
from ..ground.waiting import poll
from ..node.node import LOOK_SECONDS, Here
from ..postgresql import postgresql as pg
from ..transport.peers import Progress
from ..transport.protocol import FollowRequest, LookRequest
from . import queueing
from .succession import new_primary

_CATCH_UP_SECONDS = 20.0
_ORIGINS_SECONDS = 10.0
_CATCH_UP_PAUSE_SECONDS = 0.02
_FOLLOW_SECONDS = 10.0
_HINT = "pgpoolctl status shows every node"


def choose(cluster: Cluster, facts: ClusterFacts, wanted: str | None) -> tuple[NodeFacts, NodeFacts]:
    """Return the primary and the standby that replaces it; raises OperationError if either is missing or unfit."""
    if not cluster.mode.streams:
        raise OperationError(
            f"every node is a primary in {cluster.mode}", hint="use switchover only in streaming_replication"
        )
    primary = rightful_primary(cluster, facts)
    if primary is None:
        raise OperationError("no primary is reachable", hint=_HINT)
    if wanted and cluster.named(wanted).nofailover:
        hint = "pgpoolctl switchover chooses another node; or remove nofailover in cluster.yml, then pgpoolctl apply"
        raise OperationError(f"{wanted} is never promoted (nofailover)", hint=hint)
    target = facts.of(wanted) if wanted else _preferred(cluster, facts, primary)
    if target is None:
        raise OperationError("no reachable standby can be promoted", hint=_HINT)
    if target is primary:
        raise OperationError(f"{target.node} is the primary already", hint=_HINT)
    if not _is_fit(target, primary):
        hint = f"pgpoolctl recover {target.node}, or name another one"
        raise OperationError(f"{target.node} is not an attached standby that receives from {primary.node}", hint=hint)
    if target.stalled:
        raise OperationError(f"{target.node} does not replay: {target.stalled}", hint=replay.hint(target))
    siblings = (one for one in facts.members(cluster) if one.standby and one is not target)
    for one in siblings:
        _refuse_lower(one.node, "has", one.settings, target)
    return primary, target


def _preferred(cluster: Cluster, facts: ClusterFacts, primary: NodeFacts) -> NodeFacts | None:
    """Return the standby with the highest failover_priority, since each receives all WAL before it is promoted.

    If no standby is fit, return the best one of a failover, whose fault is then reported.
    """
    fit = (one for one in facts.members(cluster) if _is_fit(one, primary) and not one.stalled)
    nodes = {one.node: cluster.named(one.node) for one in facts.members(cluster)}
    found = [one for one in fit if not nodes[one.node].nofailover]
    best = max(found, key=lambda one: (nodes[one.node].failover_priority, rank(one)), default=None)
    return best or choose_new_primary(cluster, facts)


def _is_fit(standby: NodeFacts, primary: NodeFacts) -> bool:
    return standby.standby and standby.streaming and standby.follows == primary.node and not standby.held


def _refuse_lower(name: str, verb: str, settings: Mapping[str, int], target: NodeFacts) -> None:
    """Raise OperationError if a node could not follow `target`, because the parameters of `target` are higher."""
    low = matching.lower(settings, target.settings)
    for parameter, (value, least) in low.items():
        raise OperationError(
            f"{name} {verb} {parameter} = {value}, and {target.node} runs with {least}: {name} could not follow it",
            hint=f"{matching.raising(name, {each: needed for each, (_, needed) in low.items()})}; then the switchover",
        )


def run(here: Here, target: NodeFacts, progress: Progress, *, drain: float = queueing.DRAIN_SECONDS) -> None:
    """Stop this node, the primary, promote `target`, and restart this node as a standby of `target`.

    Clients of the pgpool-IIs wait meanwhile (queueing.py); open transactions get `drain` seconds to end. If the
    promotion fails, this node becomes the primary again. Raises OperationError, before the stop, if this node could not
    start as a standby of `target`.
    """
    if target.settings:
        _refuse_lower(here.me.name, "would start with", pg.configured(here.server.instance), target)
    _await_origins(here, target.node)
    here.query("CHECKPOINT")
    facts = here.look_at_all()
    others = [one.node for one in facts.members(here.cluster) if one.standby and one.node != target.node]
    with queueing.waiting_clients(here, drain, progress):
        _hand_over(here, target.node, progress)
        # They follow before pgpool-II sends writes: the new primary may wait for one of them at each commit.
        here.peers.ask_some(others, FollowRequest(target.node), seconds=_FOLLOW_SECONDS)
        queueing.redirect(here, target.node)
    pg.stop(here.server)  # its unit
    here.look_at_all(fresh=True)
    copying.rejoin(here, target.node, progress)


def _await_origins(here: Here, name: str) -> None:
    """Wait until the standby has recorded the origins of this node's timelines, as its agent does in its next round.

    Without them, facts cannot show that it has all WAL of this node. Raises OperationError after 10 s.
    """

    def recorded() -> bool:
        facts = here.look_at_all(fresh=True)
        mine = facts.of(here.me.name)
        return mine.timeline is None or same_timeline(facts.of(name), mine.timeline, mine.origins) is not None

    if not poll(recorded, seconds=_ORIGINS_SECONDS, pause=0.2):
        raise OperationError(f"{name} has not recorded the origin of the timeline of {here.me.name}", hint=_HINT)


def _hand_over(here: Here, name: str, progress: Progress) -> None:
    """Stop this node's server and promote the standby. If that fails, this node becomes the primary again."""
    progress(f"stopping PostgreSQL of {here.me.name}")
    try:
        pg.halt(here.server)
        here.forget_looks()
        _await_all(here, name)
        progress(f"promoting {name}")
        new_primary.promote(here, Promote(name, here.record.term + 1, None))
    except ClusterError:
        with contextlib.suppress(ClusterError):
            pg.stop(here.server)
        _take_back(here)
        raise


def _await_all(here: Here, name: str) -> None:
    """Wait until the standby has all WAL of this node, including its last checkpoint.

    Raises OperationError after 20 s.
    """

    def complete() -> bool:
        with contextlib.suppress(ClusterError):
            found = here.peers.ask(name, LookRequest(fresh=True), seconds=LOOK_SECONDS)
            return contains(found, here.look()) is True
        return False

    if not poll(complete, seconds=_CATCH_UP_SECONDS, pause=_CATCH_UP_PAUSE_SECONDS):
        raise OperationError(f"{name} did not receive all WAL of {here.me.name}", hint=_HINT)


def _take_back(here: Here) -> None:
    """Become the primary again in a new term if `decide` permits it; otherwise stay down until the agent decides.

    Raises OperationError unless a majority records the term.
    """
    here.forget_looks()
    for action in decide(here.cluster, here.me, here.look_at_all()):
        if isinstance(action, Resume):
            new_primary.resume(here, action)


def accept_loss(here: Here, progress: Progress) -> None:
    """Accept this node's data, as an administrator decided, while the cluster waits for a node that may have more.

    Its server becomes the primary in a new term; if every node is a primary, it becomes the only one in service.
    Raises OperationError if another node serves, no majority answers, or the data is not whole.
    """
    here.forget_looks()
    facts = here.look_at_all()
    mine = facts.of(here.me.name)
    serving = rightful_primary(here.cluster, facts)
    if serving is not None:
        hint = f"pgpoolctl recover {here.me.name}; pgpoolctl status shows every node"
        raise OperationError(f"{serving.node} serves, so no data loss is necessary", hint=hint)
    if not facts.majority(here.cluster):
        hint = "start more nodes, or remove the lost ones from cluster.yml and run pgpoolctl apply"
        raise OperationError("too few nodes answer to rule out another node in service", hint=hint)
    if mine.half_copied or not mine.member or mine.postgresql in (Postgresql.ABSENT, Postgresql.STARTING):
        state = "an incomplete copy" if mine.half_copied else f"a server that is {mine.postgresql}"
        raise OperationError(f"{mine.node} has {state}, which cannot serve", hint=_HINT)
    progress(f"{mine.node} serves with its own data")
    _serve_with(here, mine, max(one.term for one in facts.members(here.cluster)) + 1)


def _serve_with(here: Here, mine: NodeFacts, term: int) -> None:
    if mine.standby and here.cluster.mode.streams:
        new_primary.become_primary(here, term, loss=True)
        return
    new_primary.resume(here, Resume(mine.node, term), loss=True)
    if new_primary.in_recovery(here):
        new_primary.end_recovery(here)
