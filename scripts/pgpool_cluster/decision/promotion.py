"""Decide which standby takes the place of a primary, and whether any may. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ..definition.cluster import Cluster, Node
from . import native
from .actions import Attach, Follow, Promote, Refuse, Wait
from .facts import replay
from .facts.facts import BackendState, ClusterFacts, NodeFacts, Postgresql, contains
from .situation import Actions, latest_term, leading_pgpools, rank, rightful_primary


def choose_new_primary(cluster: Cluster, facts: ClusterFacts) -> NodeFacts | None:
    """Return the standby that has received the most WAL, by timeline and position, without those with nofailover.

    pgpool-II would choose the lowest id. With quorum commit, only the most advanced standby is certain to have every
    acknowledged commit, replayed or not. Among equals, one that can be promoted is preferred, then the higher
    failover_priority, then one that replays, then the first in cluster.yml.
    """
    standbys = [member for member in facts.members(cluster) if _counts(member)]

    def claim(member: NodeFacts) -> tuple[tuple[int, int, int], bool, int, bool]:
        priority = cluster.named(member.node).failover_priority
        return rank(member), not member.needs, priority, not member.stalled

    # Among equals, max() returns the first.
    return max((one for one in standbys if not cluster.named(one.node).nofailover), key=claim, default=None)


def _ahead(cluster: Cluster, facts: ClusterFacts, best: NodeFacts) -> tuple[str, ...]:
    """Return the standbys with nofailover that have received more than the best candidate."""
    standbys = [member for member in facts.members(cluster) if _counts(member)]
    return tuple(one.node for one in standbys if cluster.named(one.node).nofailover and rank(one) > rank(best))


def failover(cluster: Cluster, failed: Node, facts: ClusterFacts) -> Actions:
    """Return the actions after pgpool-II has detached `failed`; () if it was not a primary."""
    if not cluster.mode.streams:
        return native.dismissal(cluster, facts, failed.name)
    primary = rightful_primary(cluster, facts)
    if primary is not None:
        return (Attach(failed.name),) if primary.node == failed.name else ()
    if facts.of(failed.name).reachable and facts.of(failed.name).postgresql is Postgresql.STARTING:
        return (Wait(failed.name, "its PostgreSQL is being restarted"),)
    return () if _follow_another(cluster, facts, failed.name) else in_place_of(cluster, facts, failed.name)


def _follow_another(cluster: Cluster, facts: ClusterFacts, failed: str) -> bool:
    """Return whether the standbys in sight follow another node, which pgpool-II has not given up.

    That node is the primary. If it is out of sight, only its agent may be away.
    """
    followed = {member.follows for member in facts.members(cluster) if member.standby}
    pgpools = leading_pgpools(cluster, facts)
    used = {name for name in followed if any(pgpool.backends.get(name or "") is BackendState.UP for pgpool in pgpools)}
    return failed not in followed and bool(used)


def in_place_of(cluster: Cluster, facts: ClusterFacts, failed: str) -> Actions:
    """Return the actions that promote a standby in place of `failed`, or the reason why none is promoted."""
    writable = [member.node for member in facts.members(cluster) if member.writable]
    if writable:
        return (Wait(writable[0], "it still accepts writes; it must stop first"),)
    best = choose_new_primary(cluster, facts)
    if best is None or best.needs:
        return (_no_promotion(cluster, facts, best, failed),)
    refusal = _refusal(cluster, facts, best.node, failed)
    if refusal is not None:
        return (refusal,)
    if any(other.promoting for other in facts.members(cluster) if other.node != best.node):
        return (Wait(best.node, "another node is being promoted"),)
    siblings = (other for other in facts.members(cluster) if other.standby and other.node != best.node)
    term = latest_term(cluster, facts) + 1
    follows = tuple(Follow(other.node, best.node, term) for other in siblings if contains(best, other))
    return (Promote(best.node, term, facts.excuse.place), *follows)


def _refusal(cluster: Cluster, facts: ClusterFacts, best: str, failed: str) -> Refuse | None:
    """Return why the best candidate must not be promoted: too few nodes, or a commit may be on other nodes alone."""
    if not facts.majority(cluster):
        hint = "start more nodes; the failover then continues automatically"
        return Refuse(best, "too few nodes answer to promote it", hint)
    missing = _missing_standbys(cluster, facts, failed)
    if 0 < cluster.synchronous <= len(missing):
        names = ", ".join(missing)
        reason = f"a commit may exist on {names} alone, which is neither a reachable standby nor excused by the primary"
        hint = (
            "bring it back, and the failover continues automatically; to lose the commits that only it has: "
            f"pgpoolctl switchover --accept-loss {best}"
        )
        return Refuse(best, reason, hint)
    ahead = _ahead(cluster, facts, facts.of(best))
    if not cluster.synchronous or not ahead:
        return None
    names = ", ".join(ahead)
    reason = f"a commit may exist on {names} alone, which has received more and is never promoted (nofailover)"
    hint = (
        f"to keep it, promote {ahead[0]} after all: pgpoolctl switchover --accept-loss {ahead[0]}; "
        f"to lose it: pgpoolctl switchover --accept-loss {best}"
    )
    return Refuse(best, reason, hint)


def _no_promotion(cluster: Cluster, facts: ClusterFacts, best: NodeFacts | None, failed: str) -> Refuse:
    """Return why no standby is promoted: there is none, or promotion would crash the most advanced one.

    Another standby may lack a commit that the most advanced one has received.
    """
    barred = [one.node for one in facts.members(cluster) if _counts(one) and cluster.named(one.node).nofailover]
    if best is None and barred:
        reason = f"cluster.yml excludes every reachable standby ({', '.join(barred)}) from promotion (nofailover)"
        hint = f"bring another node back; or, if none returns, pgpoolctl switchover --accept-loss {barred[0]}"
        return Refuse(failed, reason, hint)
    if best is None:
        return Refuse(failed, "no reachable standby can be promoted", "pgpoolctl status shows every node")
    return Refuse(best.node, f"it cannot be promoted: {replay.too_low(best)}", replay.hint(best))


def _missing_standbys(cluster: Cluster, facts: ClusterFacts, failed: str) -> list[str]:
    """Return the nodes that may have a commit but are not reachable standbys, without those the primary has excused.

    A node that pgpool-II has detached may still be the only one that acknowledged a commit.
    """
    excused = facts.excuse.names
    others = [facts.of(node.name) for node in cluster.databases if node.name not in (failed, *excused)]
    missing = [other.node for other in others if not _counts(other)]
    # Standbys that were cut off no longer know the failed primary, which is one of the missing nodes.
    return missing if failed else missing[1:]


def able_to_acknowledge(cluster: Cluster, cut: Collection[str], excused: Collection[str]) -> tuple[str, ...]:
    """Return the nodes that together may still acknowledge a commit in an earlier term; () if they cannot.

    `cut`: the nodes that have given up what they acknowledge to a former primary, this one included. `excused`: the
    standbys for which commits do not wait. One of the others may be that primary, which needs `synchronous` more.
    Without `synchronous`, a primary acknowledges alone, and nothing here prevents that.
    """
    able = tuple(node.name for node in cluster.databases if node.name not in (*cut, *excused))
    return able if 0 < cluster.synchronous < len(able) else ()


def _counts(member: NodeFacts) -> bool:
    """Return whether a member is a standby with complete data and a known WAL position."""
    whole = member.member and member.standby and not member.half_copied
    return whole and member.timeline is not None and member.position is not None
