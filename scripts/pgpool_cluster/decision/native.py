"""Decisions for native replication: a node that missed a write stays detached until online recovery."""

from __future__ import annotations

from enum import IntEnum

from ..definition.cluster import Cluster, Node
from .actions import (
    Action,
    Attach,
    Begin,
    Detach,
    Dismiss,
    GiveUpPlace,
    Rebuild,
    Refuse,
    Serve,
    StandApart,
    Start,
    StartPgpool,
)
from .facts.facts import BackendState, ClusterFacts, NodeFacts, PgpoolFacts, Postgresql
from .situation import Actions, Policy, Situation, in_service, latest_term, leading_pgpools, leads, service_term


def replica(situation: Situation) -> Actions:
    """Decide for a member in native replication; once the others have accepted writes without it, its data is stale.

    pgpool-II acknowledges a write when every node in service has it. Before pgpool-II continues without a node, the
    others record a new term. So all nodes that stopped in the same term have every acknowledged write. After a crash
    they may differ by unacknowledged writes, and one node becomes the reference. Without a majority, no term can be
    recorded; then the node to which clients wrote stands apart, and becomes the reference.
    """
    mine = situation.mine
    if mine.led < situation.service:
        return _out_of_service(situation)
    comrades = [other for other in situation.others if _serves(situation, other)]
    if mine.up:
        return _together_again(situation, comrades) if mine.apart and situation.majority else ()
    if not situation.majority:
        return situation.wait("too few nodes answer to know whether they accepted writes meanwhile")
    return _return(situation, comrades)


def _together_again(situation: Situation, comrades: list[NodeFacts]) -> Actions:
    """Decide for a node that stood apart and sees a majority again: the nodes its pgpool-II detached are rebuilt."""
    view = situation.mine.pgpool
    without = tuple(one.node for one in comrades if view is None or view.backends.get(one.node) is not BackendState.UP)
    return (Begin(situation.name, situation.latest + 1, without),)


def _out_of_service(situation: Situation) -> Actions:
    mine = situation.mine
    if mine.promoting:
        return situation.wait("pgpool-II is about to attach it")
    if mine.led == 0 or (not mine.apart and _ended_with_the_others(situation)):
        return rebuild(situation)
    return situation.await_recovery("the other nodes accepted writes without it")


def _ended_with_the_others(situation: Situation) -> bool:
    """Return whether this node was in service when all servers stopped, and merely started later than the others."""
    serving = in_service(situation.cluster, situation.facts)
    return any(0 < other.restart <= situation.mine.led for other in serving)


def _return(situation: Situation, comrades: list[NodeFacts]) -> Actions:
    """Decide for a node that is down; `comrades`, which may be down as well, were in service as long as it was.

    Nodes that shut down cleanly are equal, and start. A crashed node is rebuilt from a running one. If all have
    crashed, the first one in cluster.yml is the reference.
    """
    mine = situation.mine
    if any(other.up for other in comrades) and not mine.apart:
        apart = [other.node for other in comrades if other.up and other.apart]
        if apart:
            return situation.wait(f"{apart[0]} begins a term first, because clients may have written to it alone")
        equal = _claim(situation, mine)[0] is _Claim.EQUAL
        return (Start(situation.name),) if equal else (GiveUpPlace(situation.name),)
    able = [other for other in comrades if other.up or other.postgresql in (Postgresql.DOWN, Postgresql.STARTING)]
    starting = [other.node for other in able if other.postgresql is Postgresql.STARTING]
    if starting and _claim(situation, mine)[0] is _Claim.CRASHED:
        return situation.wait(f"{starting[0]} is starting")
    first = min([mine, *able], key=lambda one: _claim(situation, one))
    kinds = _claim(situation, first)[0], _claim(situation, mine)[0]
    if kinds == (_Claim.EQUAL, _Claim.EQUAL):
        return (Start(situation.name),)
    if first is mine:
        return (Serve(situation.name, situation.latest + 1),)
    accept = f"if it cannot, pgpoolctl switchover --accept-loss {situation.name} starts this node instead"
    return situation.wait(f"{first.node} starts first, {_REASONS[kinds[0]]}; {accept}")


class _Claim(IntEnum):
    """The quality of a node's data among the nodes in service; lower is better."""

    APART = 0
    EQUAL = 1
    CRASHED = 2


_REASONS = {
    _Claim.APART: "because clients may have written to it alone",
    _Claim.EQUAL: "because it shut down cleanly and this node did not",
    _Claim.CRASHED: "because no node shut down cleanly",
}


def _claim(situation: Situation, one: NodeFacts) -> tuple[_Claim, int]:
    kind = _Claim.APART if one.apart else _Claim.CRASHED if one.position is None else _Claim.EQUAL
    return kind, _place(situation, one.node)


def _place(situation: Situation, name: str) -> int:
    return [node.name for node in situation.cluster.databases].index(name)


def rebuild(situation: Situation) -> Actions:
    """Return how a node is brought into service: by pgpool-II's online recovery, which holds clients back meanwhile."""
    if situation.source is None:
        return _without_source(situation)
    leading = leading_pgpools(situation.cluster, situation.facts)
    serving = [one.node for one in in_service(situation.cluster, situation.facts)]
    if not any(pgpool.backends.get(name) is BackendState.UP for pgpool in leading for name in serving):
        return situation.wait("no leading pgpool-II sees a node to copy from")
    return (Rebuild(situation.name),)


def _without_source(situation: Situation) -> Actions:
    """Decide without a node in service: wait for one to come, or let an administrator choose the data that counts."""
    nodes = situation.cluster.databases
    coming = [node.name for node in nodes if not situation.facts.of(node.name).reachable]
    coming += [one.node for one in situation.others if _serves(situation, one) and not one.up]
    if coming or situation.mine.half_copied or not situation.mine.member:
        return situation.wait("no node to copy from is reachable")
    hint = f"pgpoolctl switchover --accept-loss NODE, with the node whose data is kept, for example {situation.name}"
    return (Refuse(situation.name, "no node has every write", hint),)


def of_pgpool(situation: Situation) -> Actions:
    """Decide for pgpool-II: start it, note when it serves alone, and correct the view of the leading one."""
    pgpool, serving = situation.mine.pgpool, situation.primary is not None
    if pgpool is None:
        return start_pgpool(situation) if serving else ()
    return apart(situation, pgpool) + (beliefs(situation, pgpool) if leads(pgpool) and serving else ())


def start_pgpool(situation: Situation) -> Actions:
    """Return how this node's pgpool-II starts: not while another node may wrongly believe that it has every write."""
    start = (StartPgpool(situation.name),)
    if _is_served(situation):
        return start
    if waiting := _late(situation):
        return situation.wait(f"{', '.join(waiting)} may be booting; pgpool-II would detach it")
    if not situation.majority and _away(situation) and len(situation.cluster.nodes) > _ALONE_NODES:
        return situation.wait("too few nodes answer to serve without the others")
    return (*_begin(situation), *start)


_ALONE_NODES = 2
"""In a cluster of at most this many nodes, each may continue alone."""


def _is_served(situation: Situation) -> bool:
    """Return whether a pgpool-II in sight routes clients to a node in service: a term has begun without the others."""
    serving = [one.node for one in in_service(situation.cluster, situation.facts)]
    views = [situation.facts.of(node.name).pgpool for node in situation.cluster.pgpools]
    return any(view and view.backends.get(name) is BackendState.UP for view in views for name in serving)


def _begin(situation: Situation) -> Actions:
    few = not situation.majority and len(situation.cluster.nodes) > _ALONE_NODES
    return (Begin(situation.name, situation.latest + 1),) if _away(situation) and not few else ()


def beginning(cluster: Cluster, me: Node, facts: ClusterFacts) -> Actions:
    """Return how `me`, a node in service, begins a term because a pgpool-II elsewhere serves without other nodes."""
    situation = Situation(cluster, me, facts, facts.of(me.name), None, Policy())
    return _begin(situation) if situation.mine in in_service(cluster, facts) else ()


def _away(situation: Situation) -> list[str]:
    """Return the nodes that are not in service but may believe that they are."""
    serving = in_service(situation.cluster, situation.facts)
    members = [situation.facts.of(node.name) for node in situation.cluster.databases]
    out = [member for member in members if member not in serving]
    return [member.node for member in out if not member.reachable or _serves(situation, member)]


def _late(situation: Situation) -> list[str]:
    """Return the nodes with good data that are not up yet and for which pgpool-II's start waits."""
    return _away(situation) if situation.policy.patient else []


def apart(situation: Situation, pgpool: PgpoolFacts) -> Actions:
    """Return StandApart for a node in service whose pgpool-II serves without nodes that could not record a term."""
    if situation.mine.apart or not goes_apart(situation.cluster, situation.me, situation.facts):
        return ()
    if pgpool.backends.get(situation.name) is not BackendState.UP:
        return ()
    down = any(state is BackendState.DOWN for state in pgpool.backends.values())
    return (StandApart(situation.name),) if down else ()


def goes_apart(cluster: Cluster, me: Node, facts: ClusterFacts) -> bool:
    """Return whether clients may be writing to this node alone: it is in service, and no majority answers."""
    few = not facts.majority(cluster) and len(cluster.nodes) > _ALONE_NODES
    return not cluster.mode.streams and few and facts.of(me.name) in in_service(cluster, facts)


def beliefs(situation: Situation, pgpool: PgpoolFacts) -> Actions:
    """Return the actions that make the leading pgpool-II's view agree with that of the nodes.

    A node that pgpool-II has detached has missed the writes to the others. If pgpool-II sees no node in service, for
    example after it was cut off from them, none of them has its writes, and the nodes' own view is right.
    """
    seen = [situation.facts.of(node.name) for node in situation.cluster.databases]
    up = {name for name, state in pgpool.backends.items() if state is BackendState.UP}
    serving = [one for one in seen if _serves(situation, one)]
    wrong = [one for one in seen if one.reachable and one.node in up and one not in serving and not one.promoting]
    found: list[Action] = [Detach(one.node, "it does not have every write") for one in wrong]
    missed = [one for one in serving if one.node not in up]
    if len(missed) < len(serving):
        found += [action for one in missed for action in dismissal(situation.cluster, situation.facts, one.node)]
    elif any(one.up for one in missed) and not _late(situation):
        found += [*_begin(situation), *(Attach(one.node) for one in missed if one.up and not one.held)]
    return tuple(found)


def _serves(situation: Situation, one: NodeFacts) -> bool:
    """Return whether a node, up or not, has every write according to its own record."""
    return one.reachable and one.member and one.led >= situation.service and not one.half_copied


def dismissal(cluster: Cluster, facts: ClusterFacts, name: str) -> Actions:
    """Return how a node is taken out of service; never the last one, and never by a minority of the nodes.

    A minority that is cut off is itself dismissed by the others. If both sides dismissed each other, no node would be
    left. In a cluster of two nodes, either may dismiss the other.
    """
    if not facts.majority(cluster) and len(cluster.nodes) > 2:
        return ()
    served = not facts.of(name).reachable or facts.of(name).led >= service_term(cluster, facts)
    others = served and [member for member in in_service(cluster, facts) if member.node != name]
    return (Dismiss(name, latest_term(cluster, facts) + 1),) if others else ()
