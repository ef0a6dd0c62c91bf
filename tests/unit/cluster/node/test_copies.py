"""`status` shows a copy that keeps failing for the same reason, and retries spare the primary."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgpool_cluster.agent import agent
from pgpool_cluster.copying import copying
from pgpool_cluster.decision.actions import Clone
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node import notes, retries
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act
from pgpool_cluster.transport.peers import Peers

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg2")
LOW = "PostgreSQL 17/main does not start: recovery aborted because of insufficient parameter settings"


class Standby:
    """pg2, whose copies fail with `reason`, after they have begun or, without a source, before that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reason, self.begins, self.tried, self.now, self.laid = LOW, True, 0, 1000.0, "a"
        self.here = Here(CLUSTER, CLUSTER.named("pg2"), None, Peers({}), Record(system=7, copying="pg1"))
        monkeypatch.setattr(copying, "clone", self._copy)
        monkeypatch.setattr(retries, "monotonic", lambda: self.now)
        monkeypatch.setattr(paths, "laid_file", lambda: self.laid)

    def _copy(self, here: Here, source: str, _: Callable[[str], None]) -> None:
        self.tried += 1
        if self.begins:
            here.under_way.copies.begin(source)
        if self.reason:
            raise OperationError(self.reason, hint="more of it")
        here.under_way.copies.end()

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            try:
                act.perform(self.here, Clone("pg2", "pg1"))
            except OperationError:
                continue

    @property
    def note(self) -> str:
        return notes.own(self.here)


@pytest.fixture
def pg2(monkeypatch: pytest.MonkeyPatch) -> Standby:
    return Standby(monkeypatch)


def test_the_third_copy_waits_and_status_shows_the_reason(pg2: Standby) -> None:
    """pg2 and pg3 used to be copied again every 10 s without end, and status did not report it."""
    pg2.run()
    assert pg2.note == ""
    pg2.run(20)
    assert pg2.tried == 2
    assert pg2.note.startswith("2 copies of pg1 have failed for the same reason, and the copy is retried at ")
    assert pg2.note.endswith(f": {LOW}; hint: more of it")


def test_copies_are_retried_ever_more_rarely_but_never_given_up(pg2: Standby) -> None:
    for _ in range(3600):
        pg2.run()
        pg2.now += 1
    assert 14 <= pg2.tried <= 18
    pg2.now += 300
    assert "the copy is retried now" in pg2.note


def test_another_reason_or_source_resets_the_count(pg2: Standby) -> None:
    pg2.run(2)
    pg2.now += 10
    pg2.reason = "it does not receive from pg1: nothing received within 30 s"
    pg2.run()
    assert (pg2.tried, pg2.note) == (3, "")
    pg2.run()
    assert (pg2.tried, pg2.note[:8]) == (4, "2 copies")
    pg2.here.under_way.copies.begin("pg3")
    assert pg2.note == ""


def test_different_numbers_do_not_make_a_different_reason(pg2: Standby) -> None:
    for place in range(3):
        pg2.reason = f"pg_basebackup: could not write to file of process {place}"
        pg2.run()
    assert pg2.tried == 2


def test_a_copy_that_never_began_is_retried_at_once(pg2: Standby) -> None:
    pg2.begins = False
    pg2.run(10)
    assert (pg2.tried, pg2.note) == (10, "")


def test_a_new_cluster_yml_or_an_administrator_ends_the_pause(pg2: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    pg2.run(5)
    assert pg2.tried == 2
    pg2.laid = "b"
    pg2.run(5)
    assert pg2.tried == 3

    def step(_: agent.Agent) -> tuple[Clone, ...]:
        pg2.run()
        return ()

    monkeypatch.setattr(agent.Agent, "_step", step)
    agent.Agent(pg2.here).once()
    assert pg2.tried == 4


def test_a_successful_copy_ends_the_back_off(pg2: Standby) -> None:
    pg2.run(2)
    pg2.now += 10
    pg2.reason = ""
    pg2.run()
    assert (pg2.tried, pg2.note) == (3, "")
