"""The order in which servers restart: higher values reach the standbys first, lower ones the primary."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cluster.nodes import CLUSTER, healthy, pgpool, primary, seen, standby

from pgpool_cluster.decision import restart_plan
from pgpool_cluster.decision.facts import matching, replay
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, WatchdogState
from pgpool_cluster.decision.restart_plan import Restartable, RestartStep
from pgpool_cluster.ground.errors import OperationError

Values = Mapping[str, int]
NAMES = ("pg1", "pg2", "pg3")
NOW = {"max_connections": 100, "max_wal_senders": 16}
MORE, FEWER = {**NOW, "max_connections": 200}, {**NOW, "max_connections": 50}
BOTH = {"max_connections": 200, "max_wal_senders": 10}


def server(name: str, configured: Values, running: Values = NOW) -> Restartable:
    return Restartable(name, running, configured)


def planned(*servers: Restartable, wanted: tuple[str, ...] = NAMES, back: bool = False) -> list[str]:
    """Plan for servers of which the first one is the primary, and return the steps as words."""
    steps = restart_plan.plan(servers[0], servers[1:], wanted, back=back)
    return [" ".join(word for word in (step.kind, step.node, step.successor) if word) for step in steps]


@pytest.mark.parametrize("configured", [NOW, MORE], ids=["equal", "more"])
def test_standbys_come_first_and_the_primary_becomes_a_standby_of_one(configured: Values) -> None:
    servers = [server(name, configured) for name in NAMES]
    assert planned(*servers) == ["standby pg2", "standby pg3", "switchover pg1 pg2"]
    assert planned(*servers, back=True)[2:] == ["switchover pg1 pg2", "switchover pg2 pg1"]


def test_with_fewer_the_primary_restarts_first_and_in_place() -> None:
    servers = [server(name, FEWER) for name in NAMES]
    assert planned(*servers) == ["primary pg1", "standby pg2", "standby pg3"]
    assert planned(*servers, wanted=("pg1",)) == ["primary pg1"]


def test_a_server_without_standbys_restarts_in_place() -> None:
    assert planned(server("pg1", MORE), wanted=("pg1",)) == ["primary pg1"]


def test_only_named_nodes_restart() -> None:
    servers = [server(name, NOW) for name in NAMES]
    assert planned(*servers, wanted=("pg3",)) == ["standby pg3"]
    assert planned(*servers, wanted=("pg1",)) == ["switchover pg1 pg2"]


def test_the_successor_is_a_standby_that_all_others_can_follow() -> None:
    high, low = server("pg2", MORE, MORE), server("pg3", NOW)
    assert planned(server("pg1", MORE), high, low, wanted=("pg1",)) == ["switchover pg1 pg3"]


def test_without_an_order_a_change_in_both_directions_is_made_in_two_passes() -> None:
    with pytest.raises(OperationError, match="pg2 would start with max_wal_senders = 10, and pg1 has 16") as refusal:
        planned(*(server(name, BOTH) for name in NAMES))
    hint = refusal.value.hint
    assert "max_connections grows and max_wal_senders shrinks, so restart twice" in hint
    assert "postgresql_conf: {max_wal_senders: 16}; pgpoolctl apply on every node; pgpoolctl restart --pending" in hint


def test_a_single_standby_with_fewer_is_refused_with_the_command_for_all() -> None:
    with pytest.raises(OperationError, match="pg3 could not follow it") as refusal:
        planned(*(server(name, FEWER) for name in NAMES), wanted=("pg3",))
    assert refusal.value.hint.startswith("pgpoolctl restart restarts all nodes")


def test_the_way_back_is_refused_while_a_node_could_not_follow() -> None:
    """The first switchover would work: pg2 and pg3 have the present value."""
    servers = [server("pg1", MORE), server("pg2", MORE), server("pg3", MORE)]
    assert planned(*servers, wanted=("pg1",)) == ["switchover pg1 pg2"]
    with pytest.raises(OperationError, match="pg3 has max_connections = 100, and pg1 would lead with 200") as refusal:
        planned(*servers, wanted=("pg1",), back=True)
    assert refusal.value.hint.startswith("pgpoolctl restart restarts all nodes")


def test_files_that_differ_between_the_nodes_are_refused_with_their_fix() -> None:
    with pytest.raises(OperationError, match="pg3 would start with max_connections = 50") as refusal:
        planned(server("pg1", NOW), server("pg2", NOW), server("pg3", FEWER))
    assert "pgpoolctl apply on every node" in refusal.value.hint


VALUES = st.fixed_dictionaries({name: st.sampled_from([50, 100]) for name in NOW})


@settings(max_examples=200)
@given(st.tuples(VALUES, VALUES, VALUES), VALUES, st.sets(st.sampled_from(NAMES)), st.booleans())
def test_no_step_starts_a_standby_below_its_primary_or_leaves_one_behind(
    configured: tuple[Values, Values, Values], running: Values, wanted: set[str], back: bool
) -> None:
    """Each planned step is carried out on a model of the parameters."""
    servers = {name: Restartable(name, running, values) for name, values in zip(NAMES, configured, strict=True)}
    steps: tuple[RestartStep, ...] = ()
    with contextlib.suppress(OperationError):
        steps = restart_plan.plan(servers["pg1"], [servers["pg2"], servers["pg3"]], wanted, back=back)
    if not steps:
        return
    now, leader = dict.fromkeys(NAMES, running), "pg1"
    for step in steps:
        leader = step.successor or leader
        now[step.node] = servers[step.node].configured
        low = [name for name in NAMES if matching.lower(now[name], now[leader])]
        assert low == [], f"after {step}"
    substitute = {step.node for step in steps if step.successor == "pg1"}
    assert {step.node for step in steps} - substitute == wanted - substitute
    assert leader == "pg1" or not back
    assert len(steps) == len({(step.node, step.successor) for step in steps})


# The state in which a node may restart


def alone(*facts: NodeFacts, detached: str = "") -> ClusterFacts:
    """Facts in which every pgpool-II works without a watchdog, and knows pg1 as the primary."""
    view = replace(pgpool(*([detached] if detached else []), primary="pg1"), watchdog=WatchdogState.ALONE)
    return seen(*(replace(one, pgpool=view, standbys_came=True) for one in facts))


LOW = replace(standby("pg2", "pg1"), settings=NOW, needs={"max_connections": 200})


def test_a_healthy_cluster_is_ready() -> None:
    assert restart_plan.ready(CLUSTER, alone(*healthy()))
    assert not restart_plan.ready(CLUSTER, alone(*healthy(), detached="pg2"))


def test_a_standby_that_a_restart_cures_does_not_prevent_one() -> None:
    cured = replace(LOW, stalled=replay.too_low(LOW))
    assert restart_plan.ready(CLUSTER, alone(primary("pg1"), cured, standby("pg3", "pg1"), detached="pg2"))
    assert not restart_plan.ready(CLUSTER, alone(primary("pg1"), cured, standby("pg3", "pg1"), detached="pg3"))


@pytest.mark.parametrize("reason", [replay.PAUSED, replay.RESTARTING])
def test_a_standby_that_is_stalled_for_another_reason_prevents_a_restart(reason: str) -> None:
    stalled = replace(standby("pg2", "pg1"), stalled=reason)
    facts = alone(primary("pg1"), stalled, standby("pg3", "pg1"))
    assert not restart_plan.ready(CLUSTER, facts)
    assert restart_plan.restarting(facts, "pg3") == (("pg2",) if reason == replay.RESTARTING else ())
    assert restart_plan.restarting(facts, "pg2") == ()
