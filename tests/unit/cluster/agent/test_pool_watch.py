"""While an operation holds `acting`, for example a copy, pgpool-II still learns of a new primary."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER, away, down, primary, seen, standby, unwatched

from pgpool_cluster.agent.pool_watch import BUSY_SECONDS, TOLD_SECONDS, PoolWatch
from pgpool_cluster.decision.actions import Action, Redirect
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground import log
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act
from pgpool_cluster.transport.peers import Peers

COPIED = replace(down(primary("pg3")), pgpool=unwatched(), half_copied=True)
"""pg3 is being copied, and its pgpool-II still sends writes to pg1."""
SWITCHED = seen(standby("pg1", "pg2", term=2), primary("pg2", term=2), COPIED)


class Watching:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.facts, self.done = 100.0, SWITCHED, list[Action]()
        self.here = Here(CLUSTER, CLUSTER.named("pg3"), None, Peers({}), Record(system=1))
        self.acting = threading.RLock()
        self.watch = PoolWatch(self.here, self.acting)
        monkeypatch.setattr(Here, "look_at_all", lambda _: self.facts)
        monkeypatch.setattr("pgpool_cluster.agent.pool_watch.time.monotonic", lambda: self.now)
        monkeypatch.setattr(act, "perform", lambda _, action: self.done.append(action))

    def later(self, seconds: float) -> list[Action]:
        """Let this time pass while another thread holds `acting`, and return all actions so far."""
        self.now += seconds
        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with self.acting:
                held.set()
                over.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        try:
            self.watch.step()
        finally:
            over.set()
            thread.join(10)
        return self.done


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(monkeypatch)


def test_a_pgpool_is_redirected_during_a_copy_but_not_before_the_loop_had_time(watching: Watching) -> None:
    assert watching.later(0) == []
    assert watching.later(BUSY_SECONDS - 0.1) == []
    assert watching.later(0.2) == [Redirect("pg3", "pg2")]


def test_an_action_is_requested_again_only_after_some_time(watching: Watching) -> None:
    for seconds in (0, BUSY_SECONDS, 1.0, 1.0):
        watching.later(seconds)
    assert watching.done == [Redirect("pg3", "pg2")]
    assert watching.later(TOLD_SECONDS) == [Redirect("pg3", "pg2")] * 2


def test_a_loop_that_is_free_informs_pgpool_itself(watching: Watching) -> None:
    watching.later(0)
    watching.now += BUSY_SECONDS
    watching.watch.step()
    assert watching.later(BUSY_SECONDS - 0.1) == []


def test_the_operation_attaches_and_detaches_its_own_node(watching: Watching) -> None:
    up = replace(COPIED, pgpool=unwatched())
    watching.facts = seen(primary("pg1"), away("pg2"), up)
    watching.later(0)
    assert not any(action.node == "pg3" for action in watching.later(BUSY_SECONDS))


def test_other_modes_have_a_watchdog_for_that(watching: Watching) -> None:
    watching.here.cluster = replace(CLUSTER, mode=Mode.NATIVE_REPLICATION)
    watching.later(0)
    assert watching.later(BUSY_SECONDS) == []


def test_a_failure_is_raised_to_the_thread_which_logs_it_once(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> ClusterFacts:
        raise OperationError("pcp hangs", hint="")

    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    monkeypatch.setattr(PoolWatch, "step", fails)
    waits = iter([False, False, True])
    monkeypatch.setattr(watching.watch._over, "wait", lambda _: next(waits))
    watching.watch._run()
    assert said == ["pgpool-II is not informed during a long operation: pcp hangs"]
