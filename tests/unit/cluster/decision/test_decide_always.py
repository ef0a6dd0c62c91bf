"""Properties of decisions that hold for any facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cluster.nodes import ALL_UP, CLUSTER, NAMES, OTHER_SYSTEM, SYSTEM, absent, fresh, kinds, seen

from pgpool_cluster.decision.actions import (
    Action,
    Attach,
    AwaitRecovery,
    Clone,
    CreateSlots,
    Detach,
    Follow,
    Found,
    Lead,
    Promote,
    Redirect,
    Refuse,
    Rejoin,
    Resume,
    Start,
    StartPgpool,
    Stop,
    Wait,
)
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.facts import (
    BackendState,
    ClusterFacts,
    Lsn,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    Switch,
    WatchdogState,
    contains,
)
from pgpool_cluster.decision.promotion import failover
from pgpool_cluster.decision.situation import Policy, rightful_primary


@st.composite
def any_node(draw: st.DrawFn, name: str) -> NodeFacts:
    """Draw possible facts of one node, likely or not."""
    postgresql = draw(st.sampled_from(Postgresql))
    up = postgresql is Postgresql.UP
    in_recovery = up and draw(st.booleans())
    term = draw(st.integers(1, 3))
    timeline = draw(st.integers(1, 3))
    view = draw(st.none() | st.builds(
        PgpoolFacts,
        st.sampled_from(WatchdogState), st.booleans(),
        st.fixed_dictionaries({node: st.sampled_from(BackendState) for node in NAMES}),
        st.none() | st.sampled_from(NAMES),
    ))  # fmt: skip
    return NodeFacts(
        name,
        reachable=True,
        postgresql=postgresql,
        member=draw(st.booleans()),
        term=term,
        led=draw(st.integers(0, term)),
        system=draw(st.sampled_from([SYSTEM, SYSTEM, OTHER_SYSTEM])),
        databases=draw(st.sampled_from([(), ("app",)])) if up else None,
        in_recovery=in_recovery,
        standby_signal=in_recovery or (postgresql is not Postgresql.ABSENT and not up and draw(st.booleans())),
        timeline=timeline,
        position=draw(st.none() | st.sampled_from([Lsn(900), Lsn(1000), Lsn(1100)])),
        history=tuple(Switch(number, Lsn(1000)) for number in range(1, timeline)),
        follows=draw(st.sampled_from([other for other in NAMES if other != name])) if in_recovery else None,
        streaming=in_recovery and draw(st.booleans()),
        half_copied=draw(st.sampled_from([False, False, False, True])),
        promoting=draw(st.sampled_from([False, False, False, True])),
        pgpool=view,
        silent=draw(st.frozensets(st.sampled_from(NAMES), max_size=2)) - {name},
    )


any_nodes = st.tuples(*(any_node(name) for name in NAMES))
in_any_situation = settings(max_examples=60, deadline=None)


def decided(facts: ClusterFacts) -> dict[str, tuple[Action, ...]]:
    return {node.name: decide(CLUSTER, node, facts) for node in CLUSTER.nodes if facts.of(node.name).reachable}


def gain_writes(facts: ClusterFacts, actions: Iterable[Action]) -> set[str]:
    """Return the members that accept writes after `actions`."""
    gained = set()
    for action in actions:
        found = facts.of(action.node)
        if isinstance(action, Promote | Resume) or (
            isinstance(action, Start) and found.member and not found.standby_signal
        ):
            gained.add(action.node)
    return gained


@in_any_situation
@given(any_nodes)
def test_there_are_never_two_writable_primaries(nodes: tuple[NodeFacts, ...]) -> None:
    facts = seen(*nodes)
    actions = decided(facts)
    keep = {
        node.node
        for node in facts.members(CLUSTER)
        if node.writable and not node.half_copied and "Stop" not in kinds(actions[node.node])
    }
    gain = gain_writes(facts, (action for one in actions.values() for action in one))
    assert len(keep | gain) <= 1
    assert not gain & set().union(*({n.node} for n in facts.members(CLUSTER) if n.writable), set())


@in_any_situation
@given(any_nodes, st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_split_network_gains_no_second_primary(nodes: tuple[NodeFacts, ...], sides: list[bool]) -> None:
    """Each node sees only its own side; at most one side makes a node writable."""
    gaining = set()
    for side in (False, True):
        part = seen(*(node for node, where in zip(nodes, sides, strict=True) if where is side))
        if any(gain_writes(part, actions) for actions in decided(part).values()):
            gaining.add(side)
        for failed in CLUSTER.nodes:
            if gain_writes(part, failover(CLUSTER, failed, part)):
                gaining.add(side)
    assert len(gaining) <= 1


@in_any_situation
@given(any_nodes)
def test_data_that_may_be_the_only_copy_is_never_replaced(nodes: tuple[NodeFacts, ...]) -> None:
    facts = seen(*nodes)
    for name, actions in decided(facts).items():
        mine = facts.of(name)
        for action in actions:
            assert not isinstance(action, Rejoin) or contains(facts.of(action.source), mine)
            if isinstance(action, Clone):
                assert action.node == name
                assert action.source != name
                empty = mine.postgresql is Postgresql.ABSENT or mine.databases == ()
                assert mine.half_copied or (not mine.member and empty)


@in_any_situation
@given(any_nodes, st.integers(0, 3))
def test_diverged_data_is_replaced_only_for_a_primary_that_a_majority_confirms(
    nodes: tuple[NodeFacts, ...], loss: int
) -> None:
    facts = seen(*(replace(node, loss=loss) for node in nodes))
    for node in CLUSTER.nodes:
        mine = facts.of(node.name)
        for action in decide(CLUSTER, node, facts, Policy(automatic_return=True)):
            if not isinstance(action, Rejoin) or contains(facts.of(action.source), mine):
                continue
            source = facts.of(action.source)
            assert source.writable
            assert source.led == max(one.term for one in nodes)
            assert mine.member
            assert mine.system == source.system
            assert mine.postgresql in (Postgresql.DOWN, Postgresql.UP)
            assert mine.led >= loss
            assert not mine.writable


@in_any_situation
@given(any_nodes)
def test_actions_are_for_the_node_that_decides(nodes: tuple[NodeFacts, ...]) -> None:
    for name, actions in decided(seen(*nodes)).items():
        assert all(action.node == name or isinstance(action, Attach | Detach) for action in actions)


@in_any_situation
@given(any_nodes, st.permutations(NAMES))
def test_the_order_in_which_nodes_were_seen_changes_nothing(
    nodes: tuple[NodeFacts, ...], order: tuple[str, ...]
) -> None:
    by_name = {node.node: node for node in nodes}
    assert decided(seen(*nodes)) == decided(ClusterFacts({name: by_name[name] for name in order}))


def after(facts: ClusterFacts, by: str, actions: Iterable[Action]) -> ClusterFacts:
    """Return the facts after the actions of node `by` have succeeded."""
    nodes = dict(facts.nodes)
    for action in actions:
        for name, change in changes(facts, by, action).items():
            nodes[name] = replace(nodes[name], **change)
    return ClusterFacts(nodes)


Change = dict[str, Any]  # fields of NodeFacts with their new values


def changes(facts: ClusterFacts, by: str, action: Action) -> dict[str, Change]:  # noqa: C901, PLR0911, PLR0912
    node, mine = action.node, facts.of(action.node)
    follows: Change = {"in_recovery": True, "standby_signal": True, "streaming": True, "half_copied": False}
    match action:
        case Found():
            return {node: {"member": True, "term": 1, "led": 1, "position": Lsn(1000)}}
        case Clone(source=source) | Rejoin(source=source):
            there = facts.of(source)
            copied: Change = {
                "member": True, "term": there.term, "led": 0, "system": there.system, "databases": there.databases,
                "timeline": there.timeline, "position": there.position, "history": there.history,
                "postgresql": Postgresql.UP, "follows": source, **follows,
            }  # fmt: skip
            return {node: copied}
        case Start():
            started: Change = {"postgresql": Postgresql.UP, "in_recovery": mine.standby_signal}
            return {node: started | {"databases": mine.databases or (), "slots": frozenset()}}
        case Resume(term=term):
            begun: Change = {"led": term, "postgresql": Postgresql.UP, "in_recovery": False}
            begun |= {"databases": mine.databases or (), "slots": frozenset()}
            return {name: {"term": term} for name in facts.nodes} | {node: {"term": term, **begun}}
        case Stop():
            return {node: {"postgresql": Postgresql.DOWN, "databases": None}}
        case Promote(term=term):
            new: Change = {"led": term, "in_recovery": False, "standby_signal": False, "streaming": False}
            new |= {"timeline": (mine.timeline or 0) + 1, "follows": None, "promoting": False}
            return {name: {"term": term} for name in facts.nodes} | {node: {"term": term, **new}}
        case Lead(term=term):
            return {name: {"term": term} for name in facts.nodes} | {node: {"term": term, "led": term}}
        case Follow(primary=name):
            there = facts.of(name)
            return {node: {"follows": name, "timeline": there.timeline, "history": there.history, **follows}}
        case CreateSlots(slots=slots):
            return {node: {"slots": mine.slots | set(slots)}}
        case StartPgpool():
            return {node: {"pgpool": PgpoolFacts(WatchdogState.ALONE, True, ALL_UP)}}
        case Attach() | Detach():
            state = BackendState.UP if isinstance(action, Attach) else BackendState.DOWN
            return {
                name: {"pgpool": replace(found.pgpool, backends={**found.pgpool.backends, node: state})}
                for name, found in facts.nodes.items()
                if found.pgpool is not None and (name == by or _have_one_view(found.pgpool, facts.of(by).pgpool))
            }
        case Redirect(primary=name):
            assert mine.pgpool is not None
            alone = {one: BackendState.UP if one == name else BackendState.DOWN for one in mine.pgpool.backends}
            return {node: {"pgpool": replace(mine.pgpool, primary=name, backends=alone)}}
        case _:
            return {}


def _have_one_view(one: PgpoolFacts, other: PgpoolFacts | None) -> bool:
    """Return whether a watchdog gives both the same view."""
    return other is not None and WatchdogState.ALONE not in (one.watchdog, other.watchdog)


CHANGES_NOTHING = (Wait, AwaitRecovery, Refuse)


@in_any_situation
@given(any_nodes, st.sampled_from([Policy(), Policy(automatic_return=True)]))
def test_the_cluster_comes_to_rest(nodes: tuple[NodeFacts, ...], policy: Policy) -> None:
    """Each node acts on its facts, round after round; soon nothing is left to change, and there is one primary."""
    facts = seen(*nodes)
    for _ in range(12):
        pending = False
        for node in CLUSTER.nodes:
            todo = [one for one in decide(CLUSTER, node, facts, policy) if not isinstance(one, CHANGES_NOTHING)]
            pending = pending or bool(todo)
            facts = after(facts, node.name, todo)
        writable = [one.node for one in facts.members(CLUSTER) if one.writable and not one.half_copied]
        if not pending:
            break
    assert not pending
    assert len(writable) <= 1


def test_three_empty_servers_become_a_cluster() -> None:
    facts = seen(fresh("pg1", "app"), fresh("pg2"), absent("pg3"))
    for _ in range(4):
        for node in CLUSTER.nodes:
            facts = after(facts, node.name, decide(CLUSTER, node, facts))
    right = rightful_primary(CLUSTER, facts)
    assert right is not None
    assert right.node == "pg1"
    assert [node.follows for node in facts.members(CLUSTER)] == [None, "pg1", "pg1"]
    assert all(node.databases == ("app",) for node in facts.members(CLUSTER))
    assert all(node.pgpool is not None for node in facts.members(CLUSTER))
