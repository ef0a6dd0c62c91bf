"""A heartbeat carries the state of its node: by its facts, and by the local watch since."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgpool_cluster.decision.facts import Lsn, NodeFacts, PgpoolFacts, Postgresql, WatchdogState
from pgpool_cluster.decision.heartbeat import FACTS_SECONDS, NodeState, OwnState, ProcessState, Seen

STANDBY = NodeState(4, 0, Postgresql.UP, True, "pg1", True, Lsn(900), 2, True)
NOW = 1000.0
RECENT = OwnState(STANDBY, NOW - 1)


def seen(state: ProcessState, ago: float) -> Seen:
    return Seen(state, NOW - ago)


def test_the_facts_of_a_node_become_its_state() -> None:
    pool = PgpoolFacts(WatchdogState.LEADER, True, {})
    facts = NodeFacts("pg2", postgresql=Postgresql.UP, term=4, in_recovery=True, timeline=2, position=Lsn(900),
                      follows="pg1", streaming=True, pgpool=pool)  # fmt: skip
    assert NodeState.of(facts, pools=True) == STANDBY
    assert NodeState.of(facts, pools=False).pool is None, "a node that runs no pgpool-II"
    assert NodeState.of(replace(facts, pgpool=None), pools=True).pool is False
    assert not STANDBY.accepts_writes
    assert replace(STANDBY, in_recovery=False).accepts_writes


@pytest.mark.parametrize(
    ("watch", "postgresql"),
    [
        pytest.param(Seen(), Postgresql.UP, id="nothing seen"),
        pytest.param(seen(ProcessState.DIED, 0.1), Postgresql.DOWN, id="died"),
        pytest.param(seen(ProcessState.DIED, 2), Postgresql.UP, id="died before the facts, which found it up again"),
        pytest.param(seen(ProcessState.ENDED, 0.1), Postgresql.STARTING, id="restarted or stopped on request"),
        pytest.param(seen(ProcessState.ENDED, 2), Postgresql.UP, id="restarted before"),
        pytest.param(seen(ProcessState.RUNS, 0.1), Postgresql.UP, id="runs"),
        pytest.param(seen(ProcessState.FROZEN, 60), Postgresql.HANGING, id="stopped by a signal: kept sessions answer"),
    ],
)
def test_the_local_watch_overrides_older_facts(watch: Seen, postgresql: Postgresql) -> None:
    found = replace(RECENT, server=watch).at(NOW)
    assert found.postgresql is postgresql
    assert found.streaming is (postgresql is Postgresql.UP)
    assert (found.term, found.position, found.timeline) == (4, Lsn(900), 2)


@pytest.mark.parametrize("state", [Postgresql.DOWN, Postgresql.STOPPED, Postgresql.STARTING, Postgresql.ABSENT])
def test_a_server_that_appears_is_starting_until_facts_show_more(state: Postgresql) -> None:
    down = replace(RECENT, facts=replace(STANDBY, postgresql=state), server=seen(ProcessState.RUNS, 0.1))
    assert down.at(NOW).postgresql is Postgresql.STARTING


@pytest.mark.parametrize("state", [Postgresql.DOWN, Postgresql.STOPPED])
def test_a_planned_end_does_not_change_what_facts_say_about_a_server_that_is_down(state: Postgresql) -> None:
    down = replace(RECENT, facts=replace(STANDBY, postgresql=state), server=seen(ProcessState.ENDED, 0.1))
    assert down.at(NOW).postgresql is state


@pytest.mark.parametrize(
    ("watch", "pool"),
    [(Seen(), True), (seen(ProcessState.DIED, 0.1), False), (seen(ProcessState.DIED, 2), True),
     (seen(ProcessState.ENDED, 0.1), None), (seen(ProcessState.RUNS, 0.1), True)],
)  # fmt: skip
def test_so_does_the_watch_over_pgpool(watch: Seen, pool: bool | None) -> None:
    assert replace(RECENT, pool=watch).at(NOW).pool is pool


def test_old_facts_say_nothing_about_services() -> None:
    old = OwnState(STANDBY, NOW - FACTS_SECONDS - 1)
    assert (old.at(NOW).postgresql, old.at(NOW).pool, old.at(NOW).term) == (None, None, 4)
    assert replace(old, server=seen(ProcessState.DIED, 0.1)).at(NOW).postgresql is Postgresql.DOWN
    assert replace(old, server=seen(ProcessState.RUNS, 0.1)).at(NOW).postgresql is None
    assert OwnState().at(NOW).postgresql is None
