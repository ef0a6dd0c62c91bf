"""failover_command on the leader's node decides and acts repeatedly, for up to 15 s, until no action is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, healthy, orphaned, pgpool, seen, standby

from pgpool_cluster.decision.actions import Action, Begin, Dismiss, Follow, Promote, Refuse, Wait
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
PROMOTE, FOLLOW = Promote("pg2", 2, (0, 0)), Follow("pg3", "pg2")


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


def test_the_standby_is_promoted_the_other_follows_and_both_are_reported(leader: Leader) -> None:
    leader.decisions = [(PROMOTE, FOLLOW)]
    assert leader.fail_over() == (PROMOTE, FOLLOW)
    assert leader.done == [PROMOTE, FOLLOW]
    assert leader.reported == ["failover: pgpool-II reports node pg1 down", "promote pg2 term 2",
                               "follow pg3 primary pg2"]  # fmt: skip
    assert leader.busy == [False, False]
    assert leader.now == 0


def test_a_promotion_that_fails_is_decided_again(leader: Leader) -> None:
    leader.decisions = [(PROMOTE,), (Promote("pg3", 2, (0, 0)),)]
    leader.fails = {PROMOTE}
    assert leader.fail_over() == (Promote("pg3", 2, (0, 0)),)
    assert leader.done == [Promote("pg3", 2, (0, 0))]


def test_a_promotion_that_never_succeeds_is_a_refused_failover(leader: Leader) -> None:
    leader.decisions, leader.fails = [(PROMOTE,)], {PROMOTE}
    assert leader.fail_over() == (PROMOTE, Wait("pg1", "an action failed; the agents try again"))
    given_up, refused = leader.here.history.recent(9)[0]
    assert (given_up.kind, refused.kind) == ("given-up", "failover-refused")
    assert "an action failed" in refused.what


def test_a_standby_that_does_not_follow_yet_does_not_delay_the_failover(leader: Leader) -> None:
    leader.decisions, leader.fails = [(PROMOTE, FOLLOW)], {FOLLOW}
    leader.fail_over()
    assert (leader.done, leader.now) == ([PROMOTE], 0)


@pytest.mark.parametrize("quiet", [Wait("pg2", "pg3 may have more"), Refuse("pg2", "no majority", "start more")])
def test_waits_and_refusals_are_decided_again_until_the_deadline(quiet: Action, leader: Leader) -> None:
    leader.decisions = [(quiet,), (quiet,), (quiet,), (PROMOTE,)]
    assert leader.fail_over() == (PROMOTE,)
    assert leader.now == pytest.approx(1.5)
    leader.decisions = [(quiet,)]
    assert leader.fail_over() == (quiet,)
    assert leader.now == pytest.approx(1.5 + takeover._FAILOVER_SECONDS, abs=1)


@pytest.mark.parametrize(
    ("facts", "silent", "ended"),
    [(LOST, frozenset(), ["pg1"]), (LOST, frozenset({"pg1"}), []), (seen(*healthy()), frozenset(), [])],
    ids=["out of reach", "a vigil has ended them", "in reach"],
)
def test_sessions_with_a_node_out_of_reach_are_ended_first(
    facts: ClusterFacts, silent: frozenset[str], ended: list[str], leader: Leader
) -> None:
    leader.facts = facts
    leader.here.under_way.mute.publish(silent)
    leader.fail_over()
    assert leader.ended == ended


def test_a_failover_continues_although_sessions_cannot_be_ended(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(*_: object) -> None:
        raise OperationError("ss is missing", hint="apt install iproute2")

    monkeypatch.setattr(units, "hang_up", hang_up)
    leader.decisions = [(PROMOTE,)]
    leader.fail_over()
    assert leader.done == [PROMOTE]


def test_in_native_replication_pgpool_counts_as_busy_during_a_failover(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Leader(monkeypatch, NATIVE)
    leader.decisions = [(Dismiss("pg1", 2),)]
    leader.fail_over()
    assert (leader.busy, bool(leader.here.under_way.pgpool_busy)) == ([True], False)
    monkeypatch.setattr(units, "hang_up", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        leader.fail_over()
    assert not leader.here.under_way.pgpool_busy


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
