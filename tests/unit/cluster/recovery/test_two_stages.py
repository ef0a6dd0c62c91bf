"""A recovery in two stages, as seen by its target, which never waits without a deadline."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pgpool_cluster.decision.actions import Rebuild
from pgpool_cluster.decision.facts.facts import (
    BackendState,
    ClusterFacts,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    WatchdogState,
)
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act
from pgpool_cluster.recovery import main_node, target, two_stages
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import Done, PcpRecoveryRequest, RecoverRequest

NODES = "mode: native_replication\nnodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}"
CLUSTER: Cluster = parse(NODES, "cluster.yml", "pg3")
PGPOOL = PgpoolFacts(WatchdogState.LEADER, True, {"pg1": BackendState.UP, "pg3": BackendState.DOWN}, "pg1")
FACTS = ClusterFacts({
    "pg1": NodeFacts("pg1", postgresql=Postgresql.UP, member=True, term=2, led=2, timeline=1, pgpool=PGPOOL),
    "pg3": NodeFacts("pg3", postgresql=Postgresql.UP, member=True, term=2, in_recovery=True, half_copied=True),
})  # fmt: skip


@pytest.fixture
def pg3(monkeypatch: pytest.MonkeyPatch) -> Here:
    """The node pg3, between the stages of its recovery."""
    monkeypatch.setattr(Here, "look_at_all", lambda _: FACTS)
    monkeypatch.setattr(Here, "look", lambda _: FACTS.of("pg3"))
    here = Here(CLUSTER, CLUSTER.named("pg3"), None, Peers({}), Record(system=1, term=2, copying="pg1"))
    between_stages(here)
    return here


def between_stages(here: Here, seconds: float = 60.0) -> None:
    """Let a stage of a recovery have ended; pgpool-II has so many seconds for its next step."""
    with here.under_way.rebuilding.stage(seconds):
        pass


def asked(here: Here, error: Exception, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make pg3 request its recovery, which fails with `error`; return the message of the resulting error."""

    def on(_: Here, name: str, request: object, **__: object) -> object:
        assert (name, request) == ("pg1", PcpRecoveryRequest("pg3"))
        raise error

    monkeypatch.setattr(Here, "on", on)
    with pytest.raises(OperationError) as raised:
        two_stages.rebuild(here, lambda _: None)
    return raised.value.message


def test_a_recovery_that_pgpool_gave_up_is_no_longer_awaited(pg3: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "node recovery failed, failed to send start recovery packet"
    assert asked(pg3, OperationError(reason, hint=""), monkeypatch) == reason
    assert not pg3.under_way.promoting


def test_a_node_is_not_copied_from_itself(pg3: Here) -> None:
    """This happens if pgpool-II attaches a detached node again while its recovery is being requested."""
    with pytest.raises(OperationError, match="cannot be rebuilt from itself"):
        main_node.first_stage(pg3, "pg3", lambda _: None)


@pytest.mark.parametrize(
    ("mine", "rebuilt"),
    [
        (NodeFacts("pg3", postgresql=Postgresql.UP, member=True, term=2, led=2), False),
        (NodeFacts("pg3", postgresql=Postgresql.UP, member=True, term=2, led=0), True),
        (NodeFacts("pg3", postgresql=Postgresql.UP, term=0, led=0), True),
        (FACTS.of("pg3"), True),
    ],
)
def test_a_node_that_rejoined_since_the_facts_were_collected_is_not_rebuilt(
    mine: NodeFacts, rebuilt: bool, pg3: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a benchmark: the copy was incomplete at the decision, but complete and in service at the action."""
    asked_for: list[object] = []
    done = threading.Event()

    def answer(request: object, *_: object) -> Any:
        asked_for.append(request)
        done.set()
        return Done()

    pg3.under_way.rebuilding.end()
    pg3.answer = answer
    monkeypatch.setattr(Here, "look", lambda _: mine)
    act.perform(pg3, Rebuild("pg3"))
    done.wait(5 if rebuilt else 0.1)
    assert asked_for == ([RecoverRequest("pg3")] if rebuilt else [])


def test_a_recovery_that_may_continue_out_of_sight_is_awaited(pg3: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(pg3, ServerError("pg1 does not answer", hint=""), monkeypatch)
    assert pg3.under_way.promoting


@pytest.mark.parametrize("copying", ["pg1", ""])
def test_pgpools_next_step_is_awaited_until_its_deadline(
    copying: str, pg3: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    pg3.record = Record(system=1, term=2, copying=copying)
    between_stages(pg3, seconds=1)
    target.attend(pg3)
    assert pg3.under_way.promoting
    between_stages(pg3, seconds=-0.01)
    target.attend(pg3)
    assert not pg3.under_way.promoting
    assert "pgpool-II did not continue it" in capsys.readouterr().out


def test_no_deadline_applies_while_this_node_is_working(pg3: Here) -> None:
    with pg3.under_way.rebuilding.stage(-1.0):
        target.attend(pg3)
        assert pg3.under_way.promoting


def test_retries_are_counted_separately_for_each_reason(pg3: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by CI: pgpool-II was busy with another node for a while, and then failed to send its first packet."""
    lost = "ERROR:  node recovery failed, failed to send start recovery packet"
    said = ["FATAL:  pgpool-II is already processing another recovery request."] * 9 + [lost] * 2
    left = said[::-1]

    def pcp(*words: str, **_: object) -> str:
        assert words == ("pcp_recovery_node", "-n", "2")
        if left:
            raise OperationError(left.pop(), hint="")
        return ""

    monkeypatch.setattr("pgpool_cluster.machine.pgpool.pcp", pcp)
    monkeypatch.setattr("time.sleep", lambda _: None)
    two_stages.pcp_recovery(pg3, "pg3")
    assert left == []
    left += [lost] * 4
    with pytest.raises(OperationError, match="start recovery packet"):
        two_stages.pcp_recovery(pg3, "pg3")
    assert left == [lost]
    left[:] = ["ERROR:  node recovery failed, unable to connect to main node"]
    with pytest.raises(OperationError, match="unable to connect"):
        two_stages.pcp_recovery(pg3, "pg3")
