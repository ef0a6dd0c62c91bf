"""The request for a recovery in two stages, and the pgpool-II that carries it out."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import away, pgpool, primary, seen
from tests.unit.cluster.stage_node import ALL_IN, OUT, SERVING, StageNode

from pgpool_cluster.decision.facts.facts import BackendState, NodeFacts, PgpoolFacts, WatchdogState
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.node.stages import Rebuilding
from pgpool_cluster.recovery import two_stages
from pgpool_cluster.transport.protocol import DetachRequest, PcpRecoveryRequest

WITNESS = parse(
    "mode: native_replication\n"
    "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, w: {address: 10.0.0.9, runs: [pgpool]}}", "cluster.yml", "pg1",
)  # fmt: skip
DETACH = DetachRequest("pg3", recovering=True)


@pytest.fixture
def pg3(monkeypatch: pytest.MonkeyPatch) -> StageNode:
    """The node that is rebuilt."""
    return StageNode("pg3", monkeypatch)


# The request for a recovery


def test_a_node_that_is_down_is_rebuilt_by_the_leading_pgpool(pg3: StageNode) -> None:
    two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.asked == [("pg1", PcpRecoveryRequest("pg3"))]
    assert pg3.said == ["pgpool-II of pg1 rebuilds pg3"]
    assert pg3.here.record.led == 1
    assert not pg3.here.under_way.rebuilding.requested


def test_progress_of_the_stages_reaches_the_requester(pg3: StageNode) -> None:
    pg3.answers[PcpRecoveryRequest] = lambda: pg3.here.under_way.rebuilding.report("10 of 20 bytes")
    two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.said[-1] == "10 of 20 bytes"


def test_a_node_in_service_is_refused_before_anything_changes(pg3: StageNode) -> None:
    pg3.rounds = [ALL_IN]
    with pytest.raises(OperationError, match="pg3 needs no recovery"):
        two_stages.rebuild(pg3.here, pg3.say)
    assert (pg3.asked, pg3.here.record.led, pg3.here.under_way.rebuilding.requested) == ([], 1, False)


def test_a_forced_recovery_takes_a_node_out_of_service_before_it_is_detached(pg3: StageNode) -> None:
    """From the detachment on, it lacks the writes of the others, whatever happens to its recovery."""
    led: list[int] = []
    pg3.answers[DetachRequest] = lambda: led.append(pg3.here.record.led)
    pg3.rounds = [ALL_IN, ALL_IN, ALL_IN, SERVING]
    two_stages.rebuild(pg3.here, pg3.say, force=True)
    assert pg3.asked == [("pg1", DETACH), ("pg1", PcpRecoveryRequest("pg3"))]
    assert led == [0]
    assert pg3.joined == [None], "every pgpool-II has to be in the watchdog before"


def test_a_forced_recovery_leaves_a_node_in_service_if_a_pgpool_has_not_joined(pg3: StageNode) -> None:
    pg3.rounds = [ALL_IN]
    pg3.outsider = OperationError("pgpool-II of pg2 has not joined", hint="")
    with pytest.raises(OperationError, match="has not joined"):
        two_stages.rebuild(pg3.here, pg3.say, force=True)
    assert (pg3.asked, pg3.here.record.led) == ([], 1)


def test_without_another_node_in_service_nothing_is_rebuilt(pg3: StageNode) -> None:
    pg3.rounds = [seen(away("pg1"), away("pg2"), OUT)]
    with pytest.raises(OperationError, match="no other node in service can be the source of a copy for pg3"):
        two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.asked == []
    assert 10 <= pg3.clock.now - 1000 < 11, "the others may still be booting"


def test_databases_of_a_new_node_are_not_replaced(pg3: StageNode) -> None:
    own = NodeFacts("pg3", databases=("payroll",), system=8000)
    pg3.rounds = [seen(replace(primary("pg1"), pgpool=pgpool("pg3")), primary("pg2"), own)]
    with pytest.raises(OperationError, match="payroll"):
        two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.asked == []


@pytest.mark.parametrize("known", ["", "pg_basebackup: no space"])
def test_the_reason_of_the_part_that_failed_is_reported(known: str, pg3: StageNode) -> None:
    def fails() -> None:
        if known:
            pg3.here.under_way.rebuilding.fail(known)
        raise OperationError("pcp_recovery_node: ERROR: recovery failed", hint="")

    pg3.here.under_way.rebuilding.fail("the failure of an earlier recovery")
    pg3.answers[PcpRecoveryRequest] = fails
    with pytest.raises(OperationError) as failure:
        two_stages.rebuild(pg3.here, pg3.say)
    expected = known or "pcp_recovery_node: ERROR: recovery failed"
    assert failure.value.message == pg3.here.under_way.rebuilding.failure == expected


# A recovery that runs already


@pytest.mark.parametrize("failure", ["", "pg_basebackup: no space"])
def test_a_second_request_waits_for_the_recovery_that_runs(
    failure: str, pg3: StageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_stages, "_REPORT_SECONDS", 0.01)
    rebuilding = pg3.here.under_way.rebuilding
    other = Requester(rebuilding)
    other.start()
    assert other.began.wait(10)
    reported: list[str] = []

    def report(text: str) -> None:
        reported.append(text)
        if reported.count("pg3 is still being rebuilt") == 2:
            if failure:
                rebuilding.fail(failure)
            other.ends.set()

    if failure:
        with pytest.raises(OperationError, match=failure):
            two_stages.rebuild(pg3.here, report)
    else:
        two_stages.rebuild(pg3.here, report)
    other.join(10)
    assert reported[:3] == ["pg3 is already being rebuilt", "pg3 is still being rebuilt", "pg3 is still being rebuilt"]
    assert (pg3.asked, rebuilding.requested) == ([], False)


class Requester(threading.Thread):
    """A thread that has requested a recovery, and whose request ends when `ends` is set."""

    def __init__(self, rebuilding: Rebuilding) -> None:
        super().__init__(daemon=True)
        self.rebuilding, self.began, self.ends = rebuilding, threading.Event(), threading.Event()

    def run(self) -> None:
        with self.rebuilding.request():
            self.began.set()
            self.ends.wait(10)


# The pgpool-II that rebuilds it


def test_a_leader_that_is_missing_for_a_moment_is_awaited(pg3: StageNode) -> None:
    """A leader does not answer while it handles the loss of a node."""
    quiet = seen(replace(primary("pg1"), pgpool=None), primary("pg2"), OUT)
    pg3.rounds = [quiet, quiet, SERVING]
    assert two_stages._pooler(pg3.here) == "pg1"


def test_without_a_leading_pgpool_within_10_s_the_recovery_fails(pg3: StageNode) -> None:
    pg3.rounds = [seen(replace(primary("pg1"), pgpool=pgpool(quorum=False)), primary("pg2"), OUT)]
    with pytest.raises(OperationError, match="no pgpool-II is the watchdog leader"):
        two_stages._pooler(pg3.here)
    assert 10 <= pg3.clock.now - 1000 < 11


def test_a_witness_that_leads_leaves_the_recovery_to_a_pgpool_on_a_database_node() -> None:
    up = {"pg1": BackendState.UP, "pg2": BackendState.DOWN}
    joining, joined, leads = (
        PgpoolFacts(state, True, up) for state in (WatchdogState.OTHER, WatchdogState.STANDBY, WatchdogState.LEADER)
    )
    witness = NodeFacts("w", pgpool=leads)
    first, second = replace(primary("pg1"), pgpool=joining), replace(primary("pg2"), pgpool=joined)
    assert two_stages.rebuilds(WITNESS, seen(first, second, witness), "w") == "pg2"
    assert two_stages.rebuilds(WITNESS, seen(first, second, witness), "pg1") == "pg1"
    assert two_stages.rebuilds(WITNESS, seen(first, witness), "w") == "w"


def test_a_node_is_detached_by_one_request_and_once_pgpool_answers(pg3: StageNode) -> None:
    quiet = seen(replace(primary("pg1"), pgpool=None), primary("pg2"), primary("pg3"))
    pg3.rounds = [quiet, ALL_IN, ALL_IN, quiet, SERVING]
    two_stages._take_out(pg3.here, "pg1")
    assert pg3.asked == [("pg1", DETACH)]
    assert len(pg3.rounds) == 1


def test_a_node_that_pgpool_does_not_detach_within_40_s_is_not_rebuilt(pg3: StageNode) -> None:
    pg3.rounds = [ALL_IN]
    with pytest.raises(OperationError, match="pgpool-II of pg1 does not detach pg3"):
        two_stages._take_out(pg3.here, "pg1")
    assert 40 <= pg3.clock.now - 1000 < 41
    assert pg3.asked == [("pg1", DETACH)]
