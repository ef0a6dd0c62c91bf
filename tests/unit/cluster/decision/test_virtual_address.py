"""Which node has the virtual address, and when it may move."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cluster.decision.test_decide_always import any_nodes
from tests.unit.cluster.nodes import (
    CLUSTER,
    NAMES,
    NATIVE,
    Situation,
    absent,
    away,
    crashed,
    healthy,
    kinds,
    orphaned,
    pgpool,
    primary,
    seen,
    standby,
)

from pgpool_cluster.decision import fencing, situation, virtual_address
from pgpool_cluster.decision.actions import Detach, DropAddress, TakeAddress, Wait
from pgpool_cluster.decision.decide import confirmed, decide
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, WatchdogState
from pgpool_cluster.decision.liveness.links import DEAD_SECONDS
from pgpool_cluster.decision.situation import Actions, Policy
from pgpool_cluster.definition.cluster import Cluster, Service

VIRTUAL = ipaddress.ip_interface("10.0.0.50/24")
MOVED = replace(CLUSTER, virtual_ip=VIRTUAL)
"""Three nodes whose agents move the virtual address."""
DATABASE_ONLY = replace(MOVED.nodes[0], runs=frozenset({Service.POSTGRESQL}))
WITHOUT_POOL = replace(MOVED, nodes=(DATABASE_ONLY, *MOVED.nodes[1:]))
"""The node of the primary runs no pgpool-II."""
TWO = replace(MOVED, nodes=MOVED.nodes[:2])
PG1, PG2, PG3 = healthy()
NEW = primary("pg2", term=2, timeline=2)
FOLLOWS = standby("pg3", "pg2", term=2, timeline=2)
FORMER = replace(PG1, term=2)


def held(found: NodeFacts) -> NodeFacts:
    return replace(found, virtual_ip=True)


def poolless(found: NodeFacts) -> NodeFacts:
    return replace(found, pgpool=None)


def alone(found: NodeFacts) -> NodeFacts:
    return replace(found, silent=frozenset(NAMES) - {found.node})


def decided(cluster: Cluster, name: str, facts: ClusterFacts, policy: Policy) -> Actions:
    """Return what a node decides about the address."""
    leads = situation.rightful_primary(cluster, facts)
    view = situation.Situation(cluster, cluster.named(name), facts, facts.of(name), leads, policy)
    return virtual_address.of_virtual_address(view)


LOST = Policy(alone_seconds=virtual_address.DROP_SECONDS)
PG1_GONE, PG3_GONE = Policy(gone=frozenset({"pg1"})), Policy(gone=frozenset({"pg3"}))
SITUATIONS = [
    Situation("the node of the primary takes it", (PG1, PG2, PG3), {"pg1": ["TakeAddress"], "pg2": [], "pg3": []}),
    Situation("it keeps it", (held(PG1), PG2, PG3), {"pg1": [], "pg2": [], "pg3": []}),
    Situation("two nodes are a majority", (PG1, PG2, away("pg3")), {"pg1": ["TakeAddress"]}, policy=PG3_GONE),
    Situation("one node is none", (PG1, away("pg2"), away("pg3")), {"pg1": []}, policy=Policy(gone=frozenset(NAMES))),
    Situation("a node that has just vanished may still have it", (PG1, PG2, away("pg3")), {"pg1": ["Wait"]}),
    Situation(
        "a former holder drops it for a new primary, which waits for that",
        (held(FORMER), NEW, FOLLOWS),
        {"pg1": ["DropAddress"], "pg2": ["Wait"], "pg3": []},
    ),
    Situation("then the new primary takes it", (FORMER, NEW, FOLLOWS), {"pg1": [], "pg2": ["TakeAddress"], "pg3": []}),
    Situation("a new primary waits for a silent holder", (away("pg1"), NEW, FOLLOWS), {"pg2": ["Wait"], "pg3": []}),
    Situation(
        "a new primary takes it", (away("pg1"), NEW, FOLLOWS), {"pg2": ["TakeAddress"], "pg3": []}, policy=PG1_GONE
    ),
    Situation(
        "without a primary it stays, and none takes it",
        (held(crashed(PG1)), orphaned(PG2), orphaned(PG3)),
        {"pg1": [], "pg2": [], "pg3": []},
    ),
    Situation("none takes it", (away("pg1"), orphaned(PG2), orphaned(PG3)), {"pg2": [], "pg3": []}, policy=PG1_GONE),
    Situation("a restart of pgpool-II moves nothing", (held(poolless(PG1)), PG2, PG3), {"pg1": [], "pg2": ["Wait"]}),
    Situation(
        "a pgpool-II that stays away gives it up",
        (held(poolless(PG1)), PG2, PG3),
        {"pg1": ["DropAddress"], "pg2": ["Wait"], "pg3": []},
        policy=Policy(pool_away=True),
    ),
    Situation("the next one takes it", (poolless(PG1), PG2, PG3), {"pg1": [], "pg2": ["TakeAddress"], "pg3": []}),
    Situation("the primary's node takes it back", (PG1, held(PG2), PG3), {"pg1": ["Wait"], "pg2": ["DropAddress"]}),
    Situation(
        "if no pgpool-II answers, the holder keeps it",
        (held(poolless(PG1)), poolless(PG2), poolless(PG3)),
        {"pg1": [], "pg2": [], "pg3": []},
        policy=Policy(pool_away=True),
    ),
    Situation(
        "without a majority it is dropped",
        (held(alone(PG1)), away("pg2"), away("pg3")),
        {"pg1": ["DropAddress"]},
        policy=LOST,
    ),
    Situation(
        "without a majority for a moment it is kept",
        (held(alone(PG1)), away("pg2"), away("pg3")),
        {"pg1": []},
        policy=Policy(alone_seconds=DEAD_SECONDS - 0.1),
    ),
    Situation("of two nodes, none can replace the other", (held(alone(PG1)), away("pg2")), {"pg1": []}, TWO, LOST),
    Situation("of two holders, the primary keeps it", (held(PG1), held(PG2), PG3), {"pg1": [], "pg2": ["DropAddress"]}),
    Situation(
        "of two holders that are standbys, the first keeps it",
        (PG1, held(PG2), held(PG3)),
        {"pg1": [], "pg2": [], "pg3": ["DropAddress"]},
        WITHOUT_POOL,
    ),
    Situation(
        "a primary without pgpool-II", (PG1, PG2, PG3), {"pg1": [], "pg2": ["TakeAddress"], "pg3": []}, WITHOUT_POOL
    ),
    Situation(
        "during an upgrade, the watchdog of an older package has put it up, and its agent does not drop it",
        (replace(held(PG1), pgpool=pgpool(leader=False)), replace(held(PG2), pgpool=pgpool()), PG3),
        {"pg1": ["DropAddress"]},
    ),
    Situation(
        "a node that no longer runs pgpool-II drops it",
        (held(PG1), PG2, PG3),
        {"pg1": ["DropAddress"], "pg2": ["Wait"], "pg3": []},
        WITHOUT_POOL,
    ),
    Situation("a holder stays", (PG1, PG2, held(PG3)), {"pg1": [], "pg2": [], "pg3": []}, WITHOUT_POOL),
    Situation(
        "a node that may have to copy data is the last choice",
        (PG1, orphaned(PG2), PG3),
        {"pg1": [], "pg2": [], "pg3": ["TakeAddress"]},
        WITHOUT_POOL,
    ),
    Situation(
        "a node that copies data does not take it",
        (PG1, replace(PG2, half_copied=True), PG3),
        {"pg2": [], "pg3": ["TakeAddress"]},
        WITHOUT_POOL,
    ),
    Situation(
        "pgpool-II moves it with its watchdog",
        (PG1, PG2, PG3),
        {"pg1": [], "pg2": []},
        replace(NATIVE, virtual_ip=VIRTUAL),
    ),
]


@pytest.mark.parametrize("case", SITUATIONS, ids=lambda case: case.story)
def test_each_situation_has_its_decisions(case: Situation) -> None:
    facts, policy = seen(*case.nodes), case.policy or Policy()
    cluster = MOVED if case.cluster is CLUSTER else case.cluster
    assert {name: kinds(decided(cluster, name, facts, policy)) for name in case.wanted} == case.wanted


def test_without_a_virtual_address_nothing_moves() -> None:
    assert decided(CLUSTER, "pg1", seen(PG1, PG2, PG3), Policy()) == ()


def test_the_reasons_name_the_node() -> None:
    (drop,) = decided(MOVED, "pg1", seen(held(FORMER), NEW, FOLLOWS), Policy())
    assert drop == DropAddress("pg1", "pg2 takes it")
    (wait,) = decided(MOVED, "pg2", seen(held(FORMER), NEW, FOLLOWS), Policy())
    assert wait == Wait("pg2", "pg1 still has the virtual address")


def test_a_node_drops_the_address_before_it_is_fenced_or_copies() -> None:
    cut_off = seen(held(alone(PG1)), away("pg2"), away("pg3"))
    late = Policy(alone_seconds=fencing.FENCE_SECONDS)
    assert kinds(decide(MOVED, MOVED.nodes[0], cut_off, late)) == ["DropAddress", "Fence", "StopPgpool"]
    empty = held(replace(absent("pg2"), pgpool=PG2.pgpool))
    found = kinds(decide(WITHOUT_POOL, MOVED.nodes[1], seen(PG1, empty, PG3), None))
    assert (found[0], found[-1]) == ("DropAddress", "Clone")
    without = replace(empty, virtual_ip=False)
    assert "TakeAddress" not in kinds(decide(WITHOUT_POOL, MOVED.nodes[1], seen(PG1, without), PG3_GONE))


def test_the_address_is_dropped_without_the_pause_before_other_nodes_are_detached() -> None:
    """A primary that is cut off would also detach the others."""
    drop, detach, wait = DropAddress("pg1", "alone"), Detach("pg2", "it shows no sign of life"), Wait("pg1", "it waits")

    def again() -> Actions:
        pytest.fail("it decides again, which takes half a second")

    assert confirmed((drop, detach, wait), again) == (drop, wait)
    leads = replace(PG1.pgpool or pgpool(), watchdog=WatchdogState.ALONE)
    cut_off = replace(held(alone(PG1)), pgpool=leads)
    silent_for_all = [replace(away(name), silent=frozenset()) for name in ("pg2", "pg3")]
    assert kinds(decide(MOVED, MOVED.nodes[0], seen(cut_off, *silent_for_all), LOST))[0] == "DropAddress"


def test_the_address_is_taken_before_other_actions_and_on_fresh_facts() -> None:
    """Another action, such as the start of a server, may take long."""
    down_here = replace(crashed(PG2), pgpool=PG2.pgpool)
    actions = decide(WITHOUT_POOL, MOVED.nodes[1], seen(PG1, down_here, away("pg3")), PG3_GONE)
    assert kinds(actions)[:2] == ["TakeAddress", "Start"]
    take, detach = TakeAddress("pg2"), Detach("pg3", "it lags")
    assert confirmed((take, detach), lambda: (detach,)) == (detach,)
    assert confirmed((take, detach), lambda: (take, detach)) == (take, detach)
    assert confirmed((take,), lambda: ()) == (take,)


@settings(max_examples=150, deadline=None)
@given(any_nodes, st.frozensets(st.sampled_from(NAMES)), st.booleans(), st.sampled_from([MOVED, WITHOUT_POOL]))
def test_at_most_one_node_has_the_address_if_all_know_the_same(
    nodes: tuple[NodeFacts, ...], holders: frozenset[str], pool_away: bool, cluster: Cluster
) -> None:
    """Nodes act at the same time, round after round; no second holder appears, and a second one soon drops it."""
    first = set(holders)
    policy = Policy(pool_away=pool_away)
    for _ in range(3):
        now = seen(*(replace(one, virtual_ip=one.node in holders) for one in nodes))
        actions = [one for name in NAMES for one in decided(cluster, name, now, policy)]
        taken = {one.node for one in actions if isinstance(one, TakeAddress)}
        assert len(taken) <= 1
        assert not taken or not holders
        holders = (holders | taken) - {one.node for one in actions if isinstance(one, DropAddress)}
        assert len(holders) <= max(1, len(first))
    fit = {node.name for node in cluster.pgpools}
    leads = situation.rightful_primary(cluster, now)
    if leads is not None and leads.pgpool is not None and leads.node in fit and not leads.half_copied:
        assert holders == {leads.node}
