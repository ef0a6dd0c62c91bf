"""Facts in, actions out: decide what a node has to do to bring the cluster into the state that cluster.yml describes.

`decide` covers the first installation, boot, the time after a failover and the return of a failed node. `failover`
answers pgpool-II's failover_command. Both are pure; docs/explanation/decide.md explains the rules. For any facts:

- no action makes a node writable while another node in sight is writable, or without a majority of nodes in sight;
- data is replaced only on a node that is not a member and holds no database, or whose copy is incomplete;
- deciding again after the actions gives no action that changes anything.
"""

from __future__ import annotations

from collections.abc import Callable

from . import native, replay
from .actions import (
    Action,
    Attach,
    Begin,
    Clone,
    CreateSlots,
    Detach,
    Dismiss,
    Follow,
    Found,
    GiveUpPlace,
    Lead,
    Promote,
    Refuse,
    Rejoin,
    Resume,
    Start,
    StartPgpool,
    Stop,
    Wait,
)
from .cluster import Cluster, Node, Service
from .facts import BackendState, ClusterFacts, NodeFacts, Postgresql, contains
from .situation import (
    Actions,
    Policy,
    Situation,
    latest_term,
    leading_pgpools,
    leads,
    promoted_by_hand,
    rank,
    rightful_primary,
    unseen,
)


def decide(cluster: Cluster, me: Node, facts: ClusterFacts, policy: Policy | None = None) -> Actions:
    """Return the actions for node `me`, in order; () if nothing needs to change.

    `facts` are the facts that `me` has collected, including its own. Actions concern `me`, except Attach and Detach,
    which the leading pgpool-II's node carries out for other nodes.
    """
    primary = rightful_primary(cluster, facts)
    situation = Situation(cluster, me, facts, facts.of(me.name), primary, policy or Policy())
    database = _database(situation) if Service.POSTGRESQL in me.runs else ()
    pooler = _pooler(situation) if Service.PGPOOL in me.runs else ()
    return database + pooler


def confirmed(actions: Actions, again: Callable[[], Actions]) -> Actions:
    """Return the actions, but keep those that take a node away from clients only if `again` decides them as well.

    The nodes learn of a new term one after the other, so the facts may mix nodes that know it with nodes that do not.
    """
    if not any(isinstance(action, _CONFIRMED_TWICE) for action in actions):
        return actions
    second = again()
    return tuple(action for action in actions if action in second or not isinstance(action, _CONFIRMED_TWICE))


_CONFIRMED_TWICE = (Begin, Detach, Dismiss, GiveUpPlace, Stop)
"""Actions that take a node away from clients, or out of service."""


def choose_new_primary(cluster: Cluster, facts: ClusterFacts) -> NodeFacts | None:
    """Return the standby that has received the most WAL, by timeline and position.

    pgpool-II would choose the lowest id. With quorum commit, only the most advanced standby is certain to have every
    acknowledged commit, replayed or not. Among equals, a standby that replays is preferred, then the first in
    cluster.yml.
    """
    standbys = [member for member in facts.members(cluster) if _counts(member)]
    # Among equals, max() returns the first.
    return max(standbys, key=lambda member: (rank(member), not member.needs, not member.stalled), default=None)


def failover(cluster: Cluster, failed: Node, facts: ClusterFacts) -> Actions:
    """Return the actions after pgpool-II has detached `failed`; () if it was not a primary."""
    if not cluster.mode.streams:
        return native.dismissal(cluster, facts, failed.name)
    primary = rightful_primary(cluster, facts)
    if primary is not None:
        return (Attach(failed.name),) if primary.node == failed.name else ()
    if facts.of(failed.name).reachable and facts.of(failed.name).postgresql is Postgresql.STARTING:
        return (Wait(failed.name, "its PostgreSQL is being restarted"),)
    return _promotion(cluster, facts, failed.name)


def _promotion(cluster: Cluster, facts: ClusterFacts, failed: str) -> Actions:
    """Return the actions that promote a standby in place of `failed`, or the reason why none is promoted."""
    writable = [member.node for member in facts.members(cluster) if member.writable]
    if writable:
        return (Wait(writable[0], "it still takes writes; it has to stop first"),)
    best = choose_new_primary(cluster, facts)
    if best is None or best.needs:
        return (_no_promotion(best, failed),)
    if not facts.majority(cluster):
        return (Refuse(best.node, "too few nodes answer to promote it", "start more nodes; then it goes on by itself"),)
    missing = _missing_standbys(cluster, facts, failed)
    if 0 < cluster.synchronous <= len(missing):
        reason = f"a commit may be on {', '.join(missing)} alone: not in sight as a standby, nor excused by the primary"
        hint = (
            f"bring it back, and the failover goes on by itself; to give up what no other node has: "
            f"pgpoolctl switchover --accept-loss {best.node}"
        )
        return (Refuse(best.node, reason, hint),)
    if any(other.promoting for other in facts.members(cluster) if other.node != best.node):
        return (Wait(best.node, "another node is being promoted"),)
    siblings = (other for other in facts.members(cluster) if other.standby and other.node != best.node)
    follows = tuple(Follow(other.node, best.node) for other in siblings if contains(best, other))
    return (Promote(best.node, latest_term(cluster, facts) + 1, facts.excuse.place), *follows)


def _no_promotion(best: NodeFacts | None, failed: str) -> Refuse:
    """Return why no standby is promoted: there is none, or promotion would crash the most advanced one.

    Another standby may lack a commit that the most advanced one has received.
    """
    if best is None:
        return Refuse(failed, "no standby is in sight that could take over", "pgpoolctl status shows every node")
    return Refuse(best.node, f"it cannot be promoted: {replay.too_low(best)}", replay.hint(best))


def _missing_standbys(cluster: Cluster, facts: ClusterFacts, failed: str) -> list[str]:
    """Return the nodes that may have a commit but are not reachable standbys, without those the primary has excused.

    A node that pgpool-II has detached may still be the only one that acknowledged a commit.
    """
    excused = facts.excuse.names
    others = [facts.of(node.name) for node in cluster.databases if node.name not in (failed, *excused)]
    return [other.node for other in others if not _counts(other)]


def _counts(member: NodeFacts) -> bool:
    """Return whether a member is a standby with complete data and a known WAL position."""
    whole = member.member and member.standby and not member.half_copied
    return whole and member.timeline is not None and member.position is not None


# PostgreSQL of a node


def _database(situation: Situation) -> Actions:
    mine = situation.mine
    if mine.half_copied:
        return _finish_copy(situation)
    if not mine.member:
        return _join(situation) if situation.others else _begin(situation)
    if mine.postgresql is Postgresql.ABSENT:
        return situation.await_recovery("its data directory is gone")
    if mine.postgresql is Postgresql.HANGING and _replaced(situation):
        return (Stop(situation.name, "it hangs, and another primary took its place: it must take no more writes"),)
    if mine.postgresql in _NOT_NOW:
        return situation.wait(_NOT_NOW[mine.postgresql])
    return _streaming(situation) if situation.cluster.mode.streams else native.replica(situation)


_NOT_NOW = {
    Postgresql.STOPPED: "an administrator stopped its PostgreSQL: systemctl start postgresql",
    Postgresql.STARTING: "its PostgreSQL is starting, or does not answer for a moment",
    Postgresql.HANGING: "its PostgreSQL runs but does not answer: dmesg, and ps for states D and T, show why",
}


def _replaced(situation: Situation) -> bool:
    """Return whether this node was the primary and another node has taken its place."""
    primary, mine = situation.primary, situation.mine
    was = situation.cluster.mode.streams and not mine.standby_signal and mine.led < situation.latest
    return was and primary is not None and primary is not mine


def _streaming(situation: Situation) -> Actions:
    mine = situation.mine
    if mine.postgresql is Postgresql.DOWN:
        return _boot_standby(situation) if mine.standby_signal else _boot_primary(situation)
    return _serve(situation) if mine.writable else _stand_by(situation)


def _finish_copy(situation: Situation) -> Actions:
    if not situation.cluster.mode.streams:
        return native.rebuild(situation)
    source = situation.source
    if source is None:
        return situation.wait("its copy is incomplete, and no node to copy from is in sight")
    return (Clone(situation.name, source.node),)


def _join(situation: Situation) -> Actions:
    """Return how a node joins an existing cluster."""
    mine, source = situation.mine, situation.source
    if mine.postgresql is not Postgresql.ABSENT:
        if mine.databases is None:
            return _look_inside(situation)
        if mine.databases:
            return _keep(situation)
    if not situation.cluster.mode.streams:
        return native.rebuild(situation)
    if source is None:
        return situation.wait("no node to copy from is in sight")
    return (Clone(situation.name, source.node),)


def _begin(situation: Situation) -> Actions:
    """Return how a new cluster begins: the first node keeps its data, and the others wait for it."""
    mine, first = situation.mine, situation.cluster.databases[0]
    if situation.me == first:
        return _found(situation)
    if mine.postgresql is not Postgresql.ABSENT and mine.databases:
        return _keep(situation)
    return situation.wait(f"{first.name} has not begun the cluster yet")


def _found(situation: Situation) -> Actions:
    mine = situation.mine
    if mine.postgresql is Postgresql.ABSENT:
        hint = "create one with pg_createcluster, or install postgresql"
        return (Refuse(situation.name, "it has no PostgreSQL cluster to begin with", hint),)
    if not mine.up:
        return _look_inside(situation)
    if mine.in_recovery:
        hint = "promote it, or put another node first in cluster.yml"
        return (Refuse(situation.name, "its PostgreSQL is a standby of a server outside the cluster", hint),)
    if not situation.majority:
        return situation.wait("too few nodes answer to know that there is no cluster yet")
    return (Found(situation.name),)


def _look_inside(situation: Situation) -> Actions:
    """Start a PostgreSQL that is not part of the cluster, to see which databases it holds."""
    if situation.mine.postgresql is Postgresql.DOWN:
        return (Start(situation.name),)
    return situation.wait("its PostgreSQL is not running, so what it holds is unknown: systemctl start postgresql")


def _keep(situation: Situation) -> Actions:
    names = ", ".join(situation.mine.databases or ())
    hint = (
        f"to keep them, put {situation.name} first in cluster.yml before the cluster begins, or pg_dump them; to give "
        f"them up, drop them; then it joins by itself"
    )
    return (Refuse(situation.name, f"it holds databases that no other node has: {names}", hint),)


def _serve(situation: Situation) -> Actions:
    """Decide for a writable node: the rightful primary continues, any other node stops before more writes are lost."""
    mine, primary = situation.mine, situation.primary
    if mine.timeline is None:
        return situation.wait("its timeline is unknown")
    if primary is None and mine is promoted_by_hand(situation.cluster, situation.facts):
        names = ", ".join(unseen(situation.cluster, situation.facts))
        return situation.wait(f"it was promoted by hand; {names} is out of sight, and no quorum has given it up")
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
        return situation.await_recovery(f"its data has diverged from that of {primary.node}")
    if mine.follows == primary.node and mine.stalled:
        return situation.wait(f"{mine.stalled}, so it takes no reads; hint: {replay.hint(mine)}")
    if mine.follows == primary.node or fits is None:
        return situation.wait(f"it is not receiving from {primary.node} yet")
    return (Follow(situation.name, primary.node),)


def _succeed(situation: Situation) -> Actions:
    """Decide without a primary in sight: promote this node if it should take over and pgpool-II's failover failed."""
    mine, latest = situation.mine, situation.latest
    leaders = [other for other in situation.others if other.led >= latest and not other.standby_signal]
    # A promotion was interrupted after the standby had claimed its term.
    interrupted = any(member.standby and member.led >= latest for member in (mine, *situation.others))
    if any(not _gone(situation, leader) for leader in leaders):
        return situation.wait(f"{leaders[0].node}, the primary, is coming back")
    if not leaders and not interrupted and not _given_up(situation, mine.follows):
        return situation.wait(f"{mine.follows or 'the primary'} is out of sight, and no quorum has given it up")
    if not leaders and mine.follows in situation.policy.lately:
        return situation.wait(f"{mine.follows} took writes a moment ago; its agent may just be restarting")
    failed = leaders[0].node if leaders else mine.follows or ""
    planned = _promotion(situation.cluster, situation.facts, failed)
    own = tuple(action for action in planned if action.node == situation.name and not isinstance(action, Follow))
    return own or situation.wait("another standby takes over")


def _gone(situation: Situation, leader: NodeFacts) -> bool:
    """Return whether a reachable former primary will not come back by itself, so that another node may take its place.

    A server that hangs may just be slow, unless pgpool-II has given it up as well.
    """
    if leader.postgresql is Postgresql.HANGING:
        return _given_up(situation, leader.node)
    return leader.half_copied or leader.postgresql in (Postgresql.STOPPED, Postgresql.ABSENT)


def _given_up(situation: Situation, name: str | None) -> bool:
    pgpools = leading_pgpools(situation.cluster, situation.facts)
    return any(name is not None and pgpool.backends.get(name) is BackendState.DOWN for pgpool in pgpools)


def _boot_standby(situation: Situation) -> Actions:
    primary = situation.primary
    if primary is not None and contains(primary, situation.mine) is False:
        return situation.await_recovery(f"its data has diverged from that of {primary.node}")
    return (Start(situation.name),)  # read-only, so nothing can go wrong


def _boot_primary(situation: Situation) -> Actions:
    """Decide for a stopped server that was a primary: it may be one again only if no other node took its place."""
    primary = situation.primary
    if primary is not None:
        if situation.policy.automatic_return or contains(primary, situation.mine):
            return (Rejoin(situation.name, primary.node),)  # after a clean shutdown, as at a reboot, nothing is lost
        return situation.await_recovery(f"{primary.node} became the primary while it was away")
    if not situation.majority:
        return situation.wait("too few nodes answer to know whether another one took its place")
    return _claim(situation)


def _claim(situation: Situation) -> Actions:
    """With a majority in sight and no primary, start as the primary unless another node has a better claim.

    A standby may be about to take over at the same time: both need the next term, and only one of them can claim it.
    """
    mine = situation.mine
    if any(other.promoting for other in situation.others):
        return situation.wait("another node is being promoted")
    if mine.led < situation.latest and not _later_terms_unused(situation):
        return situation.await_recovery("a later primary was promoted while it was away")
    if any(_goes_before(other, mine) for other in situation.others):
        return situation.await_recovery("another node has a later state of the data")
    return (Resume(situation.name, situation.latest + 1),)


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


# pgpool-II of a node


def _pooler(situation: Situation) -> Actions:
    """Decide for pgpool-II: start it once there is a database to serve; the leader then attaches and detaches nodes."""
    pgpool = situation.mine.pgpool
    serving = situation.primary is not None
    if pgpool is None and serving and not situation.cluster.mode.streams:
        return native.start_pgpool(situation)
    if pgpool is None:
        return (StartPgpool(situation.name),) if serving else ()
    if not situation.cluster.mode.streams:
        beliefs = native.beliefs(situation, pgpool) if leads(pgpool) and serving else ()
        return native.apart(situation, pgpool) + beliefs
    if not serving or not leads(pgpool):
        return ()
    detached: list[Action] = []
    attached: list[Action] = []
    for node in situation.cluster.databases:
        member, believed = situation.facts.of(node.name), pgpool.backends.get(node.name)
        unfit = _unfit(situation, member)
        if believed is BackendState.UP and unfit:
            detached.append(Detach(node.name, unfit))
        if believed in (BackendState.DOWN, BackendState.UNUSED) and _fit(situation, member):
            attached.append(Attach(node.name))
    return (*detached, *attached)


def _fit(situation: Situation, member: NodeFacts) -> bool:
    """Return whether a node may serve clients: the primary, or a standby that streams from it and replays."""
    primary = situation.primary
    if primary is None or not member.member or member.half_copied or not member.up:
        return False
    if member.held and member is not primary:
        return False
    receives = member.standby and member.streaming and member.follows == primary.node
    return member is primary or (receives and not member.stalled)


def _unfit(situation: Situation, member: NodeFacts) -> str:
    """Return why a node whose server is up must not serve clients; "" if it may."""
    primary = situation.primary
    if primary is None or not member.up or member is primary or _fit(situation, member):
        return ""
    if member.writable:
        return f"it takes writes, but {primary.node} is the primary"
    if contains(primary, member) is False:
        return f"its data has diverged from that of {primary.node}"
    return member.stalled if member.follows == primary.node else ""
