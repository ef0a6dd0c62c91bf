"""A heartbeat has the state of its node's server: by the facts, and by the local watch since."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.decision.liveness.heartbeat import FACTS_SECONDS, OwnState, ProcessState, Seen

NOW = 1000.0
RECENT = OwnState(Postgresql.UP, NOW - 1)


def seen(state: ProcessState, ago: float) -> Seen:
    return Seen(state, NOW - ago)


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
    assert replace(RECENT, server=watch).at(NOW) is postgresql


@pytest.mark.parametrize("state", [Postgresql.DOWN, Postgresql.STOPPED, Postgresql.STARTING, Postgresql.ABSENT])
def test_a_server_that_appears_is_starting_until_facts_show_more(state: Postgresql) -> None:
    down = replace(RECENT, facts=state, server=seen(ProcessState.RUNS, 0.1))
    assert down.at(NOW) is Postgresql.STARTING


@pytest.mark.parametrize("state", [Postgresql.DOWN, Postgresql.STOPPED])
def test_a_planned_end_does_not_change_what_facts_say_about_a_server_that_is_down(state: Postgresql) -> None:
    down = replace(RECENT, facts=state, server=seen(ProcessState.ENDED, 0.1))
    assert down.at(NOW) is state


def test_old_facts_say_nothing_about_the_server() -> None:
    old = OwnState(Postgresql.UP, NOW - FACTS_SECONDS - 1)
    assert old.at(NOW) is None
    assert replace(old, server=seen(ProcessState.DIED, 0.1)).at(NOW) is Postgresql.DOWN
    assert replace(old, server=seen(ProcessState.RUNS, 0.1)).at(NOW) is None
    assert OwnState().at(NOW) is None
