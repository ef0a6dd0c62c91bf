"""The node that is promoted reports how long each stage of the failover took."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.unit.cluster.nodes import CLUSTER, away, pgpool, primary, seen, standby

from pgpool_cluster.agent.housekeeping import Housekeeping
from pgpool_cluster.decision.actions import Redirect
from pgpool_cluster.decision.facts.facts import NodeFacts, Postgresql
from pgpool_cluster.decision.liveness.heartbeat import Echo, Heartbeat
from pgpool_cluster.decision.liveness.links import Link, Links, LinkState
from pgpool_cluster.machine import pgpool as pgpool_programs
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node import failover_times
from pgpool_cluster.node.failover_times import CLAIMED, LOST, PATIENCE_SECONDS, PROMOTED, FailoverTimes
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import pgpool_service
from pgpool_cluster.recovery.vigil import Vigil
from pgpool_cluster.transport.peers import Peers

LOST_LINK = {"pg1": Link("pg1", LinkState.LOST, 99.2, heard=98.0)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(failover_times, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def promoted(times: FailoverTimes, clock: list[float]) -> None:
    times.begin("pg1", LOST_LINK)
    clock[0] += 0.2
    times.stage(CLAIMED)
    clock[0] += 0.3
    times.stage(PROMOTED)


@pytest.mark.parametrize(
    ("link", "lost"),
    [
        pytest.param(LOST_LINK["pg1"], 2.0, id="since its last heartbeat"),
        pytest.param(Link("pg1", LinkState.UP, 1.0, heard=99.9, ended=99.5), 0.5, id="since its server was down"),
        pytest.param(Link("pg1", LinkState.UNKNOWN, 1.0), None, id="nothing was ever heard of it"),
    ],
)
def test_the_loss_begins_with_the_last_sign_of_life(link: Link, lost: float | None, clock: list[float]) -> None:
    times = FailoverTimes()
    times.begin("pg1", {"pg1": link})
    times.stage(PROMOTED)
    found = times.report(pooled=True)
    assert found is not None
    assert dict(found.stages).get(LOST) == (pytest.approx(lost) if lost is not None else None)


def test_a_link_shows_when_the_server_of_a_node_ended() -> None:
    links = Links("pg2", ["pg1"], 1, 0.0)
    for at, state in enumerate([Postgresql.UP, Postgresql.DOWN, Postgresql.DOWN, Postgresql.UP], start=1):
        links.round(None, float(at))
        links.receive(Heartbeat("pg1", "pg2", 7, at, (Echo(1, at),), state), at + 0.1)
        ended = links.of("pg1", at + 0.1).ended
        assert ended == (2.1 if state is Postgresql.DOWN else -math.inf)


def test_a_second_attempt_knows_the_primary_that_the_first_one_was_cut_off_from(clock: list[float]) -> None:
    times = FailoverTimes()
    times.begin("pg1", LOST_LINK)
    clock[0] += 1
    times.begin(None, LOST_LINK)
    times.stage(CLAIMED)
    times.stage(PROMOTED)
    found = times.report(pooled=True)
    assert found is not None
    assert found.text == "failover of pg1: lost 3.0 s, claimed 0.0 s, promoted 0.0 s"


def test_a_promotion_that_an_administrator_requested_is_no_failover(clock: list[float]) -> None:
    times = FailoverTimes()
    promoted(times, clock)
    times.drop()
    times.stage(CLAIMED)
    times.stage(PROMOTED)
    times.pooled()
    assert times.report(pooled=True) is None


# Its report, with the agent's chores


class Reporting:
    """A new primary pg2 and the events that it records."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pgpool_programs, "redirect", lambda *_: None)
        self.here = Here(CLUSTER, CLUSTER.named("pg2"), None, Peers({}), Record(system=7000, term=2, led=2))
        self.chores = Housekeeping(self.here, Vigil(self.here))
        self.times = self.here.under_way.failover

    def tend(self, believed: str | None) -> list[tuple[str, object]]:
        """Do the chore while this node's pgpool-II sends writes to `believed`; "" if it does not run."""
        view = None if believed == "" else pgpool("pg1", primary=believed)
        mine: NodeFacts = replace(primary("pg2", term=2), pgpool=view)
        self.chores._report_failover(seen(away("pg1"), mine, standby("pg3", "pg2")))
        return [(event.text, event.seconds) for event in self.here.history.recent(9)[0]]


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> Reporting:
    return Reporting(monkeypatch)


def test_the_report_ends_with_the_pgpool_of_the_node(reporting: Reporting, clock: list[float]) -> None:
    promoted(reporting.times, clock)
    assert reporting.tend("pg1") == []
    clock[0] += 0.4
    pgpool_service.redirect(reporting.here, Redirect("pg2", "pg2"))
    text = "failover of pg1: lost 2.0 s, claimed 0.2 s, promoted 0.3 s, pgpool-II 0.4 s: done in 2.9 s"
    assert reporting.tend("pg1") == [(text, 2.9)]
    assert len(reporting.tend("pg1")) == 1, "it is reported once"


@pytest.mark.parametrize("believed", ["", "pg2"], ids=["no pgpool-II runs", "it knows already"])
def test_no_pgpool_is_awaited_that_has_nothing_to_learn(
    believed: str, reporting: Reporting, clock: list[float]
) -> None:
    promoted(reporting.times, clock)
    text = "failover of pg1: lost 2.0 s, claimed 0.2 s, promoted 0.3 s: done in 2.5 s"
    assert reporting.tend(believed) == [(text, 2.5)]


def test_a_pgpool_that_does_not_learn_of_it_delays_the_report_for_a_while(
    reporting: Reporting, clock: list[float]
) -> None:
    promoted(reporting.times, clock)
    clock[0] += PATIENCE_SECONDS
    assert reporting.tend("pg1") == []
    clock[0] += 0.1
    assert len(reporting.tend("pg1")) == 1


def test_a_redirection_to_another_node_or_without_a_failover_reports_nothing(
    reporting: Reporting, clock: list[float]
) -> None:
    pgpool_service.redirect(reporting.here, Redirect("pg2", "pg2"))
    promoted(reporting.times, clock)
    pgpool_service.redirect(reporting.here, Redirect("pg2", "pg3"))
    assert reporting.tend("pg1") == []
