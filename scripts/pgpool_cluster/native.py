"""`decide` where every node is a primary: who once missed a write stays out until pgpool-II has rebuilt it."""

from __future__ import annotations

from .actions import Action, Attach, Detach, Dismiss, Rebuild, Serve, Start
from .cluster import Cluster
from .facts import BackendState, ClusterFacts, NodeFacts, PgpoolFacts
from .situation import Actions, Situation, in_service, latest_term, leading_pgpools


def replica(situation: Situation) -> Actions:
    """A node of native replication: once others took writes without it, its data is old.

    pgpool-II acknowledges a write when every node in service has it, and whoever it gives up is told to be out of
    service first. So all that ended in the same service have every acknowledged write; after a crash they may differ
    by writes that nobody was told of, and one of them is the measure.
    """
    mine = situation.mine
    if mine.led < situation.latest:
        reason = "pgpool-II is about to take it back" if mine.promoting else ""
        return situation.wait(reason) if reason else situation.await_recovery("the other nodes took writes without it")
    if mine.up:
        return ()
    if not situation.majority:
        return situation.wait("too few nodes answer to know whether they took writes meanwhile")
    return _return(situation, [other for other in situation.others if _serves(situation, other)])


def _return(situation: Situation, comrades: list[NodeFacts]) -> Actions:
    """A node of native replication that is down, like `comrades` perhaps, which were in service as long as it was."""
    mine = situation.mine
    in_order = [one.position is not None for one in (mine, *comrades)]
    if any(other.up for other in comrades):
        return (Start(situation.name),) if mine.position is not None else rebuild(situation)
    if all(in_order):
        return (Start(situation.name),)
    if any(_place(situation, other.node) < _place(situation, situation.name) for other in comrades):
        return situation.wait(f"{comrades[0].node} starts first: not all nodes ended in order")
    term = situation.latest + 1
    return (Serve(situation.name, term),) if any(in_order) else (Start(situation.name),)


def _place(situation: Situation, name: str) -> int:
    return [node.name for node in situation.cluster.databases].index(name)


def rebuild(situation: Situation) -> Actions:
    """Return how a node of native replication is brought in: by pgpool-II, which holds clients back meanwhile."""
    if situation.source is None:
        return situation.wait("no node to copy from is in sight")
    leading = leading_pgpools(situation.cluster, situation.facts)
    serving = [one.node for one in in_service(situation.cluster, situation.facts)]
    if not any(pgpool.backends.get(name) is BackendState.UP for pgpool in leading for name in serving):
        return situation.wait("no pgpool-II leads that sees a node to copy from")
    return (Rebuild(situation.name),)


def beliefs(situation: Situation, pgpool: PgpoolFacts) -> Actions:
    """Return what makes the leading pgpool-II's view of native replication and the nodes' own agree.

    Whom it has given up missed what it wrote to the others. Where it sees none of those in service, as after it was cut
    off from them, what it wrote went to none of them: then they are right.
    """
    seen = [situation.facts.of(node.name) for node in situation.cluster.databases]
    up = {name for name, state in pgpool.backends.items() if state is BackendState.UP}
    serving = [one for one in seen if _serves(situation, one)]
    wrong = [one for one in seen if one.reachable and one.node in up and one not in serving and not one.promoting]
    found: list[Action] = [Detach(one.node, "it does not have every write") for one in wrong]
    missed = [one for one in serving if one.node not in up]
    if len(missed) < len(serving):
        found += [action for one in missed for action in dismissal(situation.cluster, situation.facts, one.node)]
    else:
        found += [Attach(one.node) for one in missed if one.up and not one.held]
    return tuple(found)


def _serves(situation: Situation, one: NodeFacts) -> bool:
    """Tell whether a node, up or not, has every write, by its own account."""
    return one.reachable and one.member and one.led >= situation.latest and not one.half_copied


def dismissal(cluster: Cluster, facts: ClusterFacts, name: str) -> Actions:
    """Return how a node is taken out of service; never the last one, and never by the few who see few others.

    Where these were cut off, the others dismiss them: if both did, nobody would be left. Of two nodes either may.
    """
    if not facts.majority(cluster) and len(cluster.nodes) > 2:
        return ()
    served = not facts.of(name).reachable or facts.of(name).led >= latest_term(cluster, facts)
    others = served and [member for member in in_service(cluster, facts) if member.node != name]
    return (Dismiss(name, latest_term(cluster, facts) + 1),) if others else ()


def late(situation: Situation) -> list[str]:
    """Return the nodes of native replication whose data is good, and that are not up yet."""
    found = [situation.facts.of(node.name) for node in situation.cluster.databases]
    coming = [one.node for one in found if _serves(situation, one) and not one.up]
    unseen = [one.node for one in found if not one.reachable] if situation.policy.patient else []
    return coming + unseen
