"""failover_command on the leader's node decides and acts, for up to 15 s if actions fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, healthy, orphaned, pgpool, seen, standby

from pgpool_cluster.decision.actions import Action, Begin, Dismiss, Follow, Promote, Wait
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act, takeover
from pgpool_cluster.operations.succession import new_primary
from pgpool_cluster.transport.peers import Peers

LOST = seen(
    away("pg1"), replace(orphaned(standby("pg2", "pg1")), pgpool=pgpool("pg1")), orphaned(standby("pg3", "pg1", at=900))
)
PROMOTE, FOLLOW, DISMISS = Promote("pg2", 2, (0, 0)), Follow("pg3", "pg2"), Dismiss("pg1", 2)


class Leader:
    """pg2, whose pgpool-II leads. `decisions` has one decision per round; the last one is repeated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: Cluster = CLUSTER) -> None:
        self.here = Here(cluster, cluster.named("pg2"), None, Peers({}), Record(system=7000, term=1))
        self.decisions: list[tuple[Action, ...]] = [()]
        self.facts: ClusterFacts = LOST
        self.fails: set[Action] = set()
        self.done: list[Action] = []
        self.ended: list[str] = []
        self.reported: list[str] = []
        self.busy: list[bool] = []
        self.now = 0.0
        monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: self.facts)
        monkeypatch.setattr(Here, "forget_looks", lambda _: None)
        monkeypatch.setattr(Here, "remember", lambda *_, **__: None)
        monkeypatch.setattr(takeover, "failover", lambda *_: self._decide())
        monkeypatch.setattr(takeover, "beginning", lambda *_: self._decide())
        monkeypatch.setattr(act, "perform", self._perform)
        monkeypatch.setattr(units, "hang_up", lambda _, node: self.ended.append(node.name))
        monkeypatch.setattr("pgpool_cluster.operations.takeover.time.monotonic", lambda: self.now)
        monkeypatch.setattr("pgpool_cluster.operations.takeover.time.sleep", self._sleep)

    def _decide(self) -> tuple[Action, ...]:
        return self.decisions.pop(0) if len(self.decisions) > 1 else self.decisions[0]

    def _perform(self, here: Here, action: Action) -> None:
        self.busy.append(bool(here.under_way.pgpool_busy))
        if action in self.fails:
            raise OperationError("it does not answer", hint="pgpoolctl status")
        self.done.append(action)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def fail_over(self, name: str = "pg1") -> tuple[Action, ...]:
        return tuple(takeover.fail_over(self.here, self.here.cluster.named(name), self.reported.append))


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Leader:
    return Leader(monkeypatch)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Leader:
    return Leader(monkeypatch, NATIVE)


def test_the_others_continue_without_a_lost_node_and_that_is_reported(native: Leader) -> None:
    native.decisions = [(DISMISS,)]
    assert native.fail_over() == (DISMISS,)
    assert native.done == [DISMISS]
    assert native.reported == ["failover: pgpool-II reports node pg1 down", "dismiss pg1 term 2"]
    assert native.now == 0


def test_with_streaming_failover_command_does_nothing(leader: Leader) -> None:
    """Only a pgpool-II whose configuration an older package has written calls it; the agents have decided already."""
    leader.decisions = [(PROMOTE, FOLLOW)]
    (wait,) = leader.fail_over()
    assert isinstance(wait, Wait)
    assert (leader.done, leader.ended, leader.here.history.recent(9)[0]) == ([], [], ())


def test_a_dismissal_that_fails_is_decided_again(native: Leader) -> None:
    later = Dismiss("pg1", 3)
    native.decisions, native.fails = [(DISMISS,), (later,)], {DISMISS}
    assert native.fail_over() == (later,)
    assert (native.done, native.now) == ([later], 0.5)


def test_a_dismissal_that_never_succeeds_is_a_refused_failover(native: Leader) -> None:
    native.decisions, native.fails = [(DISMISS,)], {DISMISS}
    assert native.fail_over() == (DISMISS, Wait("pg1", "an action failed; the agents try again"))
    assert native.now == pytest.approx(takeover._FAILOVER_SECONDS, abs=1)
    given_up, refused = native.here.history.recent(9)[0]
    assert (given_up.kind, refused.kind) == ("given-up", "failover-refused")
    assert "an action failed" in refused.what


@pytest.mark.parametrize(
    ("facts", "silent", "ended"),
    [(LOST, frozenset(), ["pg1"]), (LOST, frozenset({"pg1"}), []), (seen(*healthy()), frozenset(), [])],
    ids=["out of reach", "a vigil has ended them", "in reach"],
)
def test_sessions_with_a_node_out_of_reach_are_ended_first(
    facts: ClusterFacts, silent: frozenset[str], ended: list[str], native: Leader
) -> None:
    native.facts = facts
    native.here.under_way.mute.publish(silent)
    native.fail_over()
    assert native.ended == ended


def test_a_failover_continues_although_sessions_cannot_be_ended(
    native: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(*_: object) -> None:
        raise OperationError("ss is missing", hint="apt install iproute2")

    monkeypatch.setattr(units, "hang_up", hang_up)
    native.decisions = [(DISMISS,)]
    native.fail_over()
    assert native.done == [DISMISS]


def test_pgpool_counts_as_busy_during_a_failover(native: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    native.decisions = [(DISMISS,)]
    native.fail_over()
    assert (native.busy, bool(native.here.under_way.pgpool_busy)) == ([True], False)
    monkeypatch.setattr(units, "hang_up", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        native.fail_over()
    assert not native.here.under_way.pgpool_busy


# On a database node, at the request of a witness


def became(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    monkeypatch.setattr(new_primary, "become_primary", lambda _, *words: found.append(words))
    leader.facts = LOST
    return found


def test_a_node_takes_over_if_it_decides_so_twice(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    done = became(leader, monkeypatch)
    leader.decisions = [(PROMOTE,)]
    takeover.take_over(leader.here)
    assert done == [(2, (0, 0))]


@pytest.mark.parametrize(
    "decisions",
    [[()], [(Promote("pg3", 2, (0, 0)),)], [(PROMOTE,), ()], [(PROMOTE,), (Promote("pg2", 3, (0, 0)),)]],
    ids=["nothing", "another node", "not any more", "in another term"],
)
def test_a_node_does_not_take_over_without_two_equal_decisions(
    decisions: list[tuple[Action, ...]], leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = became(leader, monkeypatch)
    leader.decisions = decisions
    with pytest.raises(OperationError, match="pg2 does not confirm that it must be promoted"):
        takeover.take_over(leader.here)
    assert done == []


def decided(*actions: Action) -> Callable[..., tuple[Action, ...]]:
    return lambda *_: actions


def test_a_node_follows_only_the_primary_that_it_would_choose_itself(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "decide", decided(Follow("pg2", "pg3")))
    takeover.refuse_undecided(leader.here, Follow("pg2", "pg3"))
    with pytest.raises(OperationError, match="does not confirm that it must follow pg1"):
        takeover.refuse_undecided(leader.here, Follow("pg2", "pg1"))


@pytest.mark.parametrize("action", [Dismiss("pg1", 2), Begin("pg2", 2)])
def test_a_node_continues_without_others_only_if_it_decides_so(action: Action, monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Leader(monkeypatch, NATIVE)
    leader.decisions = [(action, Wait("pg3", "later"))]
    gone = NATIVE.named("pg1") if isinstance(action, Dismiss) else None
    takeover.go_on(leader.here, gone)
    assert leader.done == [action]
    leader.decisions = [()]
    with pytest.raises(OperationError, match="does not confirm that the other nodes must continue"):
        takeover.go_on(leader.here, gone)


def test_with_streaming_no_node_continues_without_others(leader: Leader) -> None:
    leader.decisions = [(Dismiss("pg1", 2),)]
    with pytest.raises(OperationError, match="does not confirm that the other nodes must continue"):
        takeover.go_on(leader.here, CLUSTER.named("pg1"))
    assert leader.done == []
