"""A node that fails to return by itself tries again ever more rarely, and then waits for an administrator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import CLUSTER, crashed, primary, seen, standby

from pgpool_cluster.agent import agent
from pgpool_cluster.copying import copying
from pgpool_cluster.decision.actions import AwaitRecovery, Clone, Rejoin
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node import notes, retries
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act
from pgpool_cluster.transport.peers import Peers

FACTS = seen(
    crashed(primary("pg1")), primary("pg2", term=2, timeline=2, at=1500), standby("pg3", "pg2", term=2, timeline=2)
)
WHY = "cannot copy from pg2: connection refused"


class Former:
    """pg1, a former primary whose tries fail while there is a `reason`. `tried`: when they were, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reason, self.now, self.laid = WHY, 0.0, "a"
        self.tried: list[float] = []
        self.here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=7000, term=1, led=1))
        monkeypatch.setattr(copying, "rejoin", self._rejoin)
        monkeypatch.setattr(retries, "monotonic", lambda: self.now)
        monkeypatch.setattr(paths, "laid_file", lambda: self.laid)

    def _rejoin(self, here: Here, source: str, _: Callable[[str], None]) -> None:
        assert source == "pg2"
        self.tried.append(self.now)
        if self.reason:
            raise OperationError(self.reason, hint="see pg2")
        here.under_way.returns.end()

    def step(self) -> object:
        """One round of the agent, 2 s after the one before; return what was decided."""
        self.now += 2
        policy = agent.Agent(self.here)._policy
        first, *_ = decide(CLUSTER, CLUSTER.named("pg1"), FACTS, policy)
        with suppress(OperationError):
            act.perform(self.here, first)
        return first

    def steps(self, seconds: int) -> object:
        return [self.step() for _ in range(seconds // 2)][-1]


@pytest.fixture
def pg1(monkeypatch: pytest.MonkeyPatch) -> Former:
    return Former(monkeypatch)


def test_eight_tries_with_growing_pauses_and_then_a_command(pg1: Former) -> None:
    assert isinstance(pg1.steps(3600), AwaitRecovery)
    pauses = [round(later - earlier) for earlier, later in zip(pg1.tried, pg1.tried[1:], strict=False)]
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    assert notes.own(pg1.here) == (
        f"try 8 of 8 to become a standby of pg2 has failed, it was the last one: {WHY}; hint: see pg2"
    )


def test_the_reason_is_in_status_from_the_first_failure_on(pg1: Former) -> None:
    pg1.step()
    assert notes.own(pg1.here).startswith("try 1 of 8 to become a standby of pg2 has failed, the next is at ")
    assert notes.own(pg1.here).endswith(f": {WHY}; hint: see pg2")


def test_different_reasons_do_not_begin_a_new_series(pg1: Former) -> None:
    """Otherwise two alternating faults would have the node copied without end."""
    for number in range(8):
        pg1.reason = f"reason {number}"
        pg1.now += 1000
        pg1.step()
    assert not pg1.here.returns_by_itself


def test_an_incomplete_copy_of_a_return_counts_as_well(pg1: Former, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try has begun to replace the data. Each further one is a base backup, which reads the whole primary."""
    pg1.step()
    pg1.here.record = pg1.here.record.with_changes(copying="pg2")
    monkeypatch.setattr(copying, "clone", pg1._rejoin)
    half = seen(replace(FACTS.of("pg1"), half_copied=True), FACTS.of("pg2"), FACTS.of("pg3"))
    monkeypatch.setattr(f"{__name__}.FACTS", half)
    for number in range(20):
        pg1.reason = f"reason {'ABC'[number % 3]}"
        pg1.now += 300
        last = pg1.step()
    assert len(pg1.tried) == 8
    assert last == AwaitRecovery("pg1", "its copy is incomplete")
    assert notes.own(pg1.here).startswith("try 8 of 8 to become a standby of pg2 has failed, it was the last one")


def test_a_copy_that_an_administrator_began_is_never_given_up(pg1: Former, monkeypatch: pytest.MonkeyPatch) -> None:
    pg1.here.record = pg1.here.record.with_changes(copying="pg2")
    monkeypatch.setattr(copying, "clone", pg1._rejoin)
    for _ in range(20):
        with suppress(OperationError):
            act.perform(pg1.here, Clone("pg1", "pg2"))
    assert len(pg1.tried) == 20
    assert pg1.here.returns_by_itself


def test_a_success_ends_the_series(pg1: Former) -> None:
    pg1.step()
    pg1.reason = ""
    pg1.steps(20)
    assert (notes.own(pg1.here), pg1.here.returns_by_itself) == ("", True)


def test_another_cluster_yml_an_administrator_or_another_primary_begin_a_new_series(
    pg1: Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg1.steps(3600)
    assert len(pg1.tried) == 8
    pg1.laid = "b"
    pg1.step()
    assert (len(pg1.tried), notes.own(pg1.here)[:8]) == (9, "try 1 of")
    pg1.steps(3600)
    assert len(pg1.tried) == 16
    monkeypatch.setattr(agent.Agent, "_step", lambda _: (pg1.step(),))
    agent.Agent(pg1.here).once()
    assert len(pg1.tried) == 17
    pg1.steps(3600)
    pg1.here.under_way.returns.begin("pg3")
    assert pg1.here.returns_by_itself


def test_with_manual_return_the_agent_never_decides_it(pg1: Former) -> None:
    manual = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}\nreturn: manual\n", "cluster.yml", "pg1")
    here = Here(manual, manual.named("pg1"), None, Peers({}), Record())
    assert not agent.Agent(here)._policy.automatic_return
    assert agent.Agent(pg1.here)._policy.automatic_return


def test_a_rejoin_that_loses_nothing_is_still_tried_after_the_last_try(pg1: Former) -> None:
    pg1.steps(3600)
    pg1.now += 300
    act_ = Rejoin("pg1", "pg2")
    with pytest.raises(OperationError):
        act.perform(pg1.here, act_)
    assert len(pg1.tried) == 9
