"""A switchover that fails, and one for which an administrator accepts a loss of data."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, crashed, down, orphaned, primary, seen, standby

from pgpool_cluster.decision.actions import Promote, Resume
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import postgresql_service, switchover
from pgpool_cluster.operations.succession import new_primary
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport.peers import Peers

LED = Record(system=7000, term=1, led=1)


def here(cluster: Cluster, name: str, record: Record = LED) -> Here:
    return Here(cluster, cluster.named(name), SimpleNamespace(instance=None), Peers({}), record)  # type: ignore[arg-type]


def looks(monkeypatch: pytest.MonkeyPatch, *found: ClusterFacts) -> None:
    """Make the node collect these facts in turn; the last ones are repeated."""
    left = list(found)
    monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: left.pop(0) if len(left) > 1 else left[0])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Actions that start or promote a node, with their terms."""
    done: list[object] = []
    monkeypatch.setattr(Here, "query", lambda *_: [(False,)])
    monkeypatch.setattr(pg, "halt", lambda _: None)
    monkeypatch.setattr(pg, "stop", lambda _: None)
    monkeypatch.setattr(pg, "configured", lambda _: {})
    monkeypatch.setattr(postgresql_service, "start", lambda _, action: done.append(action))

    def resume(_: Here, action: Resume, *, loss: bool = False) -> None:
        done.extend([action, "with a loss"] if loss else [action])

    def become_primary(here: Here, term: int, *, loss: bool = False) -> None:
        done.extend([Promote(here.me.name, term), "with a loss"] if loss else [Promote(here.me.name, term)])

    monkeypatch.setattr(new_primary, "resume", resume)
    monkeypatch.setattr(new_primary, "become_primary", become_primary)
    return done


TARGET = replace(standby("pg2", "pg1"), position=primary("pg1").position)


@pytest.mark.parametrize(
    ("seen_then", "wanted"),
    [
        pytest.param(seen(down(primary("pg1"))), [], id="D5: cut off alone, it stays down"),
        pytest.param(
            seen(down(primary("pg1")), replace(orphaned(TARGET), promoting=True), away("pg3")), [],
            id="the standby is about to take its place",
        ),
        pytest.param(
            seen(down(primary("pg1")), orphaned(TARGET), away("pg3")), [Resume("pg1", 2)],
            id="with a majority it takes a new term, as after a boot",
        ),
    ],
)  # fmt: skip
def test_a_promotion_whose_answer_is_lost_starts_no_second_primary(
    seen_then: ClusterFacts, wanted: list[object], started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote(_: Here, __: Promote) -> None:
        raise ServerError("pg2 is unreachable: no answer", hint="")

    monkeypatch.setattr(new_primary, "promote", promote)
    monkeypatch.setattr(switchover, "_await_all", lambda *_: None)
    stopped = seen(down(primary("pg1")), TARGET, away("pg3"))
    looks(monkeypatch, seen(primary("pg1"), TARGET, away("pg3")), stopped, seen_then)
    with pytest.raises(ServerError, match="unreachable"):
        switchover.run(here(CLUSTER, "pg1"), TARGET, lambda _: None)
    assert started == wanted


# --accept-loss


def test_a_standby_is_promoted_although_another_one_may_have_more_writes(
    started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, seen(down(primary("pg1", term=3, led=3)), away("pg2"), orphaned(standby("pg3", "pg1", term=3))))
    switchover.accept_loss(here(CLUSTER, "pg3"), lambda _: None)
    assert started == [Promote("pg3", 4), "with a loss"]


def test_a_node_that_is_down_serves_with_its_own_data(started: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, seen(away("pg1"), crashed(primary("pg2", term=2, led=1)), crashed(primary("pg3", led=0))))
    switchover.accept_loss(here(NATIVE, "pg2"), lambda _: None)
    assert started == [Resume("pg2", 3), "with a loss"]


@pytest.mark.parametrize(
    ("cluster", "facts", "why"),
    [
        (CLUSTER, seen(primary("pg1"), standby("pg2", "pg1"), away("pg3")), "pg1 serves"),
        (CLUSTER, seen(away("pg1"), orphaned(standby("pg2", "pg1")), away("pg3")), "too few nodes answer"),
        (
            CLUSTER,
            seen(away("pg1"), replace(down(standby("pg2", "pg1")), half_copied=True), down(standby("pg3", "pg1"))),
            "an incomplete copy",
        ),
    ],
)
def test_accept_loss_is_refused_if_it_is_not_needed_or_no_node_can_serve(
    cluster: Cluster, facts: ClusterFacts, why: str, started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, facts)
    with pytest.raises(OperationError, match=why) as refusal:
        switchover.accept_loss(here(cluster, "pg2"), lambda _: None)
    assert refusal.value.hint
    assert started == []
