"""Decide for a member in streaming replication: serve, follow, take over, or return. Pure."""

from __future__ import annotations

from . import fencing, promotion
from .actions import CreateSlots, Fence, Follow, Lead, Promote, Rejoin, Resume, Start, Stop
from .facts import replay
from .facts.facts import BackendState, NodeFacts, Postgresql, contains
from .situation import Actions, Situation, given_up, leading_pgpools, promoted_by_hand, silent, unseen


def was_replaced(situation: Situation) -> bool:
    """Return whether this node was the primary and another node has taken its place."""
    primary, mine = situation.primary, situation.mine
    was = situation.cluster.mode.streams and not mine.standby_signal and mine.led < situation.latest
    return was and primary is not None and primary is not mine


def of_member(situation: Situation) -> Actions:
    """Return the actions for a member whose server is up or may be started."""
    mine = situation.mine
    if mine.postgresql is Postgresql.DOWN:
        return _boot_standby(situation) if mine.standby_signal else _boot_primary(situation)
    return _serve(situation) if mine.writable else _stand_by(situation)


def _serve(situation: Situation) -> Actions:
    """Decide for a writable node: the rightful primary continues, any other node stops before more writes are lost."""
    mine, primary = situation.mine, situation.primary
    if fencing.is_due(situation.cluster, situation.policy.alone_seconds):
        return (Fence(situation.name, fencing.REASON),)
    if mine.timeline is None:
        return situation.wait("its timeline is unknown")
    if primary is None and mine is promoted_by_hand(situation.cluster, situation.facts):
        names = ", ".join(unseen(situation.cluster, situation.facts))
        return situation.wait(f"it was promoted by hand; {names} is unreachable, and no quorum has declared it dead")
    if primary is None:
        return (Stop(situation.name, "a later primary was promoted while it was away"),)
    if primary is not mine:
        return (Stop(situation.name, f"{primary.node} is the primary"),)
    latest = situation.latest
    lead: Actions = (Lead(situation.name, latest + 1),) if mine.led < latest and situation.majority else ()
    wanted = (node.slot for node in situation.cluster.databases if node != situation.me)
    missing = tuple(slot for slot in wanted if slot not in mine.slots)
    return (*lead, CreateSlots(situation.name, missing)) if missing else lead


def _stand_by(situation: Situation) -> Actions:
    """Decide for a running standby: it follows the primary, or takes its place."""
    mine, primary = situation.mine, situation.primary
    if primary is None:
        return _succeed(situation)
    if mine.follows == primary.node and mine.streaming and not mine.stalled:
        return ()
    fits = contains(primary, mine)
    if fits is False:
        return _return(situation, primary, f"its data has diverged from that of {primary.node}")
    if mine.follows == primary.node and mine.stalled:
        return situation.wait(f"{mine.stalled}, so pgpool-II sends it no reads; hint: {replay.hint(mine)}")
    if mine.follows == primary.node or fits is None:
        return situation.wait(f"it is not receiving from {primary.node} yet")
    return (Follow(situation.name, primary.node, situation.latest),)


def _succeed(situation: Situation) -> Actions:
    """Decide without a primary in sight: promote this node if it should take over and pgpool-II's failover failed."""
    mine, latest = situation.mine, situation.latest
    leaders = [other for other in situation.others if other.led >= latest and not other.standby_signal]
    # A promotion was interrupted after the standby had claimed its term.
    interrupted = any(member.standby and member.led >= latest for member in (mine, *situation.others))
    if any(not _gone(situation, leader) for leader in leaders):
        return situation.wait(f"{leaders[0].node}, the primary, is coming back")
    if not leaders and not interrupted and not _lost(situation):
        return situation.wait(f"{mine.follows or 'the primary'} is unreachable, and no quorum has declared it dead")
    if not leaders and mine.follows in situation.policy.lately and not _is_silent(situation, mine.follows):
        return situation.wait(f"{mine.follows} accepted writes a moment ago; its agent may just be restarting")
    failed = leaders[0].node if leaders else mine.follows or ""
    planned = promotion.in_place_of(situation.cluster, situation.facts, failed)
    own = tuple(action for action in planned if action.node == situation.name and not isinstance(action, Follow))
    return own or situation.wait("another standby will be promoted")


def _gone(situation: Situation, leader: NodeFacts) -> bool:
    """Return whether a reachable former primary will not come back by itself, so that another node may take its place.

    A server that hangs may just be slow, unless a majority cannot log in to it either. One that has crashed would first
    replay its WAL, so a standby comes before it.
    """
    if leader.postgresql is Postgresql.HANGING:
        return given_up(situation.cluster, situation.facts, leader.node)
    crashed = leader.postgresql is Postgresql.DOWN and leader.position is None
    return crashed or leader.half_copied or leader.postgresql in (Postgresql.STOPPED, Postgresql.ABSENT)


def _lost(situation: Situation) -> bool:
    """Return whether the unreachable primary counts as dead; a standby that was cut off no longer knows which it is."""
    cluster, facts, follows = situation.cluster, situation.facts, situation.mine.follows
    return given_up(cluster, facts, follows) if follows is not None else not unseen(cluster, facts)


def _is_silent(situation: Situation, name: str | None) -> bool:
    return name is not None and silent(situation.cluster, situation.facts, name)


def _boot_standby(situation: Situation) -> Actions:
    primary = situation.primary
    if primary is not None and contains(primary, situation.mine) is False:
        return _return(situation, primary, f"its data has diverged from that of {primary.node}")
    return (Start(situation.name),)  # read-only, so nothing can go wrong


def _return(situation: Situation, primary: NodeFacts, reason: str) -> Actions:
    """Decide for a node whose data has diverged: it rejoins by itself, or waits for an administrator.

    Its WAL is kept first (keeping.py), but its data is replaced. So a majority has to confirm the primary, and no
    decision of an administrator may concern the node.
    """
    why = _why_by_command(situation, primary)
    if why or not situation.policy.automatic_return:
        return situation.await_recovery(f"{reason}, and {why}" if why else reason)
    if not situation.confirmed:
        return situation.wait(f"{reason}, and too few nodes answer to confirm that {primary.node} is the primary")
    if situation.mine.up and _used(situation):
        return situation.wait(f"{reason}, and pgpool-II has not detached it yet")
    return (Rejoin(situation.name, primary.node),)


def _used(situation: Situation) -> bool:
    """Return whether a leading pgpool-II sends clients to this node."""
    pgpools = leading_pgpools(situation.cluster, situation.facts)
    return any(pgpool.backends.get(situation.name) is BackendState.UP for pgpool in pgpools)


def _why_by_command(situation: Situation, primary: NodeFacts) -> str:
    """Return why a node with diverged data never rejoins by itself; "" if it may."""
    mine = situation.mine
    if mine.system is None or mine.system != primary.system:
        return f"its data is not known to be of the same cluster as that of {primary.node}"
    if mine.held:
        return "an administrator detached it"
    if mine.led < situation.loss:
        return f"an administrator accepted the loss of commits in term {situation.loss}"
    return ""


def _boot_primary(situation: Situation) -> Actions:
    """Decide for a stopped server that was a primary: it may be one again only if no other node took its place."""
    primary = situation.primary
    if primary is not None:
        if contains(primary, situation.mine):
            return (Rejoin(situation.name, primary.node),)  # after a clean shutdown, as at a reboot, nothing is lost
        return _return(situation, primary, f"{primary.node} became the primary while it was away")
    if not situation.majority:
        return situation.wait("too few nodes answer to know whether another node was promoted")
    return _claim(situation)


def _claim(situation: Situation) -> Actions:
    """With a majority in sight and no primary, start as the primary unless another node has a better claim.

    A standby may be about to take over at the same time: both need the next term, and only one of them can claim it.
    """
    mine = situation.mine
    if any(other.promoting for other in situation.others):
        return situation.wait("another node is being promoted")
    if mine.led < situation.latest and not _later_terms_unused(situation):
        return situation.await_primary("a later primary was promoted while it was away")
    if any(_goes_before(other, mine) for other in situation.others):
        return situation.await_primary("another node has newer data")
    if situation.policy.yields and _has_successor(situation):
        return situation.wait("it has crashed, and a standby takes over")
    return (Resume(situation.name, situation.latest + 1),)


def _has_successor(situation: Situation) -> bool:
    planned = promotion.in_place_of(situation.cluster, situation.facts, situation.name)
    return any(isinstance(action, Promote) for action in planned)


def _later_terms_unused(situation: Situation) -> bool:
    """Return whether all nodes are in sight and none has led in a later term than this one."""
    members = [situation.facts.of(node.name) for node in situation.cluster.databases]
    return all(member.reachable and member.led <= situation.mine.led for member in members)


def _goes_before(other: NodeFacts, mine: NodeFacts) -> bool:
    """Return whether `other` prevents `mine` from starting as the primary."""
    if (other.timeline or 0) != (mine.timeline or 0):
        return (other.timeline or 0) > (mine.timeline or 0)
    if other.standby or other.standby_signal:
        return None not in (other.position, mine.position) and contains(mine, other) is False
    return other.led >= mine.led and _order(other) > _order(mine)


def _order(member: NodeFacts) -> tuple[int, str]:
    return member.position.bytes if member.position else 0, member.node
