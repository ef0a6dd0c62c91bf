"""Statements that delay a second stage are cancelled on every node, for a limited time."""

from __future__ import annotations

from dataclasses import replace

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.nodes import NATIVE
from tests.unit.cluster.stage_node import StageNode, draining

from pgpool_cluster.definition.cluster import Parameter
from pgpool_cluster.definition.key import Role
from pgpool_cluster.recovery import sessions
from pgpool_cluster.transport.channel import SILENCE
from pgpool_cluster.transport.protocol import CancelActiveAnswer, CancelActiveRequest


@pytest.fixture
def pg1(monkeypatch: pytest.MonkeyPatch) -> StageNode:
    """The main node."""
    return StageNode("pg1", monkeypatch)


# Sessions that do not end


def end(node: StageNode) -> None:
    """Begin the second stage: no sessions are left."""
    with node.here.under_way.drain.finishing("pg3"):
        pass


def test_statements_are_cancelled_on_all_nodes_until_the_second_stage_begins(
    pg1: StageNode, capsys: pytest.CaptureFixture[str]
) -> None:
    pg1.server.rows["pg_cancel_backend"] = [(1,)]
    pg1.answers[CancelActiveRequest] = CancelActiveAnswer(2)
    began = draining(pg1)

    def begins() -> None:
        if pg1.clock.now >= 1005:
            end(pg1)

    pg1.clock.during = begins
    sessions.watch(pg1.here, began)
    assert [request for _, request in pg1.asked] == [CancelActiveRequest(0.0), CancelActiveRequest(1.0)]
    assert capsys.readouterr().out.count("sessions did not end within 3 s") == 1


def test_writes_of_the_main_node_may_end_on_the_others_for_10_s_at_most(pg1: StageNode) -> None:
    pg1.answers[CancelActiveRequest] = CancelActiveAnswer(0)
    began = draining(pg1)
    pg1.here.cluster = replace(NATIVE, pgpool=(Parameter("recovery_timeout", "90"),))
    pg1.clock.during = lambda: end(pg1) if pg1.clock.now >= 1016 else None
    sessions.watch(pg1.here, began)
    limits = [request.since for _, request in pg1.asked if isinstance(request, CancelActiveRequest)]
    assert limits == [*map(float, range(10)), 1e9, 1e9, 1e9]
    pg1.asked.clear()
    pg1.clock.now = 1000.0
    began = draining(pg1)
    pg1.here.cluster = replace(NATIVE, pgpool=(Parameter("recovery_timeout", "9"),))
    sessions.watch(pg1.here, began)
    limits = [request.since for _, request in pg1.asked if isinstance(request, CancelActiveRequest)]
    assert limits[:4] == [0.0, 1.0, 2.0, 1e9], "half of the time that pgpool-II has left"


def test_sessions_are_watched_for_half_an_hour_at_most(pg1: StageNode, capsys: pytest.CaptureFixture[str]) -> None:
    pg1.answers[CancelActiveRequest] = CancelActiveAnswer(0)
    began = draining(pg1)
    sessions.watch(pg1.here, began)
    assert SILENCE <= pg1.clock.now - 1000 <= SILENCE + 1
    assert pg1.here.under_way.drain.archive_from == ""
    assert "sessions did not end" not in capsys.readouterr().out, "no statement was cancelled"


def test_the_clusters_own_sessions_are_not_cancelled(pg1: StageNode) -> None:
    pg1.server.rows["pg_cancel_backend"] = [(4,)]
    assert sessions.cancel_active(pg1.here, 2.5) == 4
    assert pg1.server.values == [([*Role, "postgres"], 2.5)]


def test_a_server_that_does_not_answer_has_no_statements_to_cancel(pg1: StageNode) -> None:
    pg1.server.rows["pg_cancel_backend"] = psycopg2.OperationalError("it is gone")
    assert sessions.cancel_active(pg1.here, 2.5) == 0
