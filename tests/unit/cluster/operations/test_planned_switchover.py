"""A planned switchover: the choice of the standby, refusals before the primary stops, and the order of the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, down, healthy, orphaned, primary, seen, standby
from tests.unit.cluster.world import Acting, Host, World, at_work, hands, make_cluster

from pgpool_cluster.copying import copying
from pgpool_cluster.decision.actions import Follow, Redirect
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, Origin, Postgresql, Switch
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import pgpool_service, postgresql_service, switchover
from pgpool_cluster.postgresql import postgresql as pg

# The choice of the standby


AHEAD = standby("pg3", "pg1", at=1100)
HIGH, LOW = {"max_connections": 200}, {"max_connections": 100}


@pytest.mark.parametrize(("wanted", "chosen"), [(None, "pg3"), ("pg2", "pg2"), ("pg3", "pg3")])
def test_the_standby_with_the_most_wal_takes_over_unless_another_one_is_named(wanted: str | None, chosen: str) -> None:
    found = switchover.choose(CLUSTER, seen(primary("pg1", at=1100), standby("pg2", "pg1"), AHEAD), wanted)
    assert [one.node for one in found] == ["pg1", chosen]


@pytest.mark.parametrize(
    ("facts", "wanted", "why", "hint"),
    [
        pytest.param(seen(away("pg1"), orphaned(standby("pg2", "pg1")), away("pg3")), None, "no primary is reachable",
                     "pgpoolctl status", id="no primary"),
        pytest.param(seen(primary("pg1"), away("pg2"), away("pg3")), None, "no reachable standby", "pgpoolctl status",
                     id="no standby"),
        pytest.param(seen(*healthy()), "pg1", "pg1 is the primary already", "pgpoolctl status", id="the primary"),
        pytest.param(seen(primary("pg1"), orphaned(standby("pg2", "pg1")), AHEAD), "pg2",
                     "pg2 is not an attached standby",
                     "pgpoolctl recover pg2", id="deaf"),
        pytest.param(seen(primary("pg1"), standby("pg2", "pg3"), AHEAD), "pg2", "pg2 is not an attached standby",
                     "pgpoolctl recover pg2", id="it follows a standby"),
        pytest.param(seen(primary("pg1"), replace(standby("pg2", "pg1"), held=True), AHEAD), "pg2",
                     "pg2 is not an attached standby", "pgpoolctl recover pg2", id="held"),
        pytest.param(seen(primary("pg1"), down(standby("pg2", "pg1")), AHEAD), "pg2", "pg2 is not an attached standby",
                     "pgpoolctl recover pg2", id="down"),
        pytest.param(seen(primary("pg1"), replace(standby("pg2", "pg1"), stalled="its replay is paused"), AHEAD), "pg2",
                     "pg2 does not replay: its replay is paused", "pg_wal_replay_resume", id="paused"),
        pytest.param(seen(primary("pg1"), replace(standby("pg2", "pg1"), settings=HIGH), replace(AHEAD, settings=LOW)),
                     "pg2", "pg3 has max_connections = 100, and pg2 runs with 200: pg3 could not follow",
                     "postgresql_conf: {max_connections: 200}", id="the other standby is too low"),
    ],
)  # fmt: skip
def test_a_standby_that_could_not_take_over_is_refused_with_the_way_out(
    facts: ClusterFacts, wanted: str | None, why: str, hint: str
) -> None:
    with pytest.raises(OperationError, match=why) as refusal:
        switchover.choose(CLUSTER, facts, wanted)
    assert hint in refusal.value.hint


def test_a_standby_with_higher_parameters_than_the_target_follows_it() -> None:
    lower, higher = replace(standby("pg2", "pg1"), settings=LOW), replace(AHEAD, settings=HIGH)
    _, target = switchover.choose(CLUSTER, seen(primary("pg1"), lower, higher), "pg2")
    assert target is lower


def test_there_is_no_switchover_where_every_node_is_a_primary() -> None:
    with pytest.raises(OperationError, match="every node is a primary in native_replication"):
        switchover.choose(NATIVE, seen(*healthy()), None)


# On the cluster in memory


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Three healthy nodes, pg1 is the primary; their agents do nothing by themselves."""
    with at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))) as found:
        monkeypatch.setattr(found, "step", lambda _: ())
        yield found


def here(world: World, name: str = "pg1") -> Here:
    found = world.hosts[name].here
    assert found is not None
    return found


def switch(world: World, target: str = "pg2", **changes: object) -> list[str]:
    """Switch over from pg1, and return the reported progress. `changes`: to the facts of the target."""
    said: list[str] = []
    facts: NodeFacts = replace(world.facts(target), **changes)  # type: ignore[arg-type]
    with world.within("pg1"), Acting(world, "pg1"):
        switchover.run(here(world), facts, said.append)
    return said


def follows(world: World) -> dict[str, str | None]:
    return {host.name: host.data.follows for host in world.databases if host.data}


def test_the_primary_becomes_a_standby_and_no_write_is_lost(world: World) -> None:
    world.write(lambda _: False)
    assert switch(world) == ["stopping PostgreSQL of pg1", "promoting pg2"]
    assert follows(world) == {"pg1": "pg2", "pg2": None, "pg3": "pg2"}
    assert all(host.data and host.data.writes == {1} for host in world.databases)
    assert here(world, "pg2").record.led == here(world, "pg2").record.term == 2


def test_the_new_primary_has_the_slots_of_its_standbys_before_clients_reach_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit waits for a standby, which receives nothing without its slot."""
    found: list[set[str]] = []

    def redirect(*_: object) -> None:
        data = world.hosts["pg2"].data
        assert data is not None
        found.append(set(data.slots))

    monkeypatch.setattr(world, "redirect", redirect)
    switch(world)
    assert {node.slot for node in world.cluster.databases if node.name != "pg2"} <= found[0]


def test_the_primary_checkpoints_before_it_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a long checkpoint would take place while clients wait."""
    asked: list[str] = []
    query, stop = world.query, world.stop_server

    def queried(here: Here, sql: str, *values: object) -> list[tuple[Any, ...]]:
        asked.append(sql)
        return query(here, sql, *values)

    def stopped(host: Host) -> None:
        asked.append("stop")
        stop(host)

    monkeypatch.setattr(world, "query", queried)
    monkeypatch.setattr(world, "stop_server", stopped)
    switch(world)
    assert asked[:2] == ["CHECKPOINT", "stop"]


def test_pgpool_sends_writes_to_the_new_primary_before_the_former_one_returns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent acts on nothing else during the switchover. Its next round repeats a redirection that fails."""
    done: list[str] = []

    def redirect(_: Here, action: Redirect) -> None:
        done.append(f"redirect to {action.primary}")
        raise OperationError("pcp: no answer", hint="")

    monkeypatch.setattr(pgpool_service, "redirect", redirect)
    monkeypatch.setattr(copying, "rejoin", lambda *_: done.append("rejoin"))
    switch(world)
    assert done[-2:] == ["redirect to pg2", "rejoin"]


def test_the_switchover_is_complete_although_another_standby_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(here: Here, action: Follow) -> None:
        raise ServerError(f"{action.node} is unreachable", hint=here.me.name)

    monkeypatch.setattr(postgresql_service, "follow", follow)
    switch(world)
    # pg3 has left its primary before the promotion; its own agent lets it follow the next one.
    assert follows(world) == {"pg1": "pg2", "pg2": None, "pg3": None}


def test_a_standby_that_receives_nothing_more_is_not_promoted(world: World) -> None:
    world.hosts["pg2"].slow = True
    world.write()
    began = world.clock
    with pytest.raises(OperationError, match="pg2 did not receive all WAL of pg1"):
        switch(world)
    assert 20 <= world.clock - began <= 30
    assert follows(world) == {"pg1": None, "pg2": "pg1", "pg3": "pg1"}
    assert world.hosts["pg1"].up, "the primary serves again"
    assert here(world).record.led == 2


def test_a_standby_that_is_late_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.hosts["pg2"].slow = True
    world.write()

    def pause() -> None:
        late, all_of_it = world.hosts["pg2"].data, world.hosts["pg1"].data
        assert late is not None
        assert all_of_it is not None
        late.log = all_of_it.log

    monkeypatch.setattr(world, "pause", pause)
    switch(world)
    assert follows(world)["pg1"] == "pg2"


def test_a_standby_that_has_not_recorded_the_primarys_timeline_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is so for a moment after a promotion, and a second switchover may follow at once."""
    for host in world.databases:
        assert host.data is not None
        host.data.timeline, host.data.history = 2, (Switch(1, host.data.position),)
    here(world).remember(origins=(Origin(1, 1), Origin(2, 2)))
    here(world, "pg2").remember(origins=(Origin(1, 1),))
    with pytest.raises(OperationError, match="pg2 has not recorded the origin of the timeline of pg1"):
        switch(world)
    assert world.hosts["pg1"].up, "the primary has not stopped"

    def pause() -> None:
        here(world, "pg2").remember(origins=here(world).record.origins)

    monkeypatch.setattr(world, "pause", pause)
    switch(world)
    assert follows(world)["pg1"] == "pg2"


def test_a_primary_that_could_not_follow_the_target_keeps_running(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg, "configured", lambda _: LOW)
    with pytest.raises(OperationError, match="pg1 would start with max_connections = 100, and pg2 runs with 200"):
        switch(world, settings=HIGH)
    assert world.hosts["pg1"].up
    assert world.is_healthy()
    switch(world, settings=LOW)
    assert follows(world)["pg1"] == "pg2"


# --accept-loss


def accept(world: World, name: str) -> None:
    with world.within(name), Acting(world, name):
        switchover.accept_loss(here(world, name), lambda _: None)


def test_a_former_standby_without_its_signal_file_ends_its_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every node is a primary, a half-finished recovery leaves a standby."""
    with at_work(World.healthy(make_cluster(Mode.NATIVE_REPLICATION, 3))) as world:
        monkeypatch.setattr(world, "step", lambda _: ())
        world.cut(["pg1"])
        for name in ("pg2", "pg3"):
            world.crash(name)
        data = world.hosts["pg2"].data
        assert data is not None
        data.standby, data.follows, data.crashed = True, "pg1", False
        accept(world, "pg2")
        assert (data.standby, world.hosts["pg2"].up) == (False, True)
        assert here(world, "pg2").record.led == 2


@pytest.mark.parametrize(
    ("state", "words"),
    [(Postgresql.ABSENT, "a server that is absent"), (Postgresql.STARTING, "a server that is starting")],
)
def test_a_server_without_usable_data_is_not_accepted(
    state: Postgresql, words: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cut(["pg1"])
    facts: Callable[[str], NodeFacts] = world.facts
    monkeypatch.setattr(
        world, "facts", lambda name: replace(facts(name), postgresql=state) if name == "pg2" else facts(name)
    )
    with pytest.raises(OperationError, match=f"pg2 has {words}, which cannot serve"):
        accept(world, "pg2")


def test_a_node_that_does_not_belong_to_the_cluster_is_not_accepted(world: World) -> None:
    world.cut(["pg1"])
    here(world, "pg2").remember(system=None)
    with pytest.raises(OperationError, match="pg2 has a server that is up, which cannot serve"):
        accept(world, "pg2")
