"""Operations that several threads begin and end: none ends another one's announcement, and none is lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgpool_cluster.decision.facts.facts import PgpoolFacts, WatchdogState
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.node import pgpool_view
from pgpool_cluster.node.pgpool_view import PgpoolView
from pgpool_cluster.node.stages import Drain, Rebuilding
from pgpool_cluster.node.under_way import Span, UnderWay


def test_a_span_lasts_until_its_last_thread_has_left() -> None:
    span = Span()
    first, second = threading.Event(), threading.Event()

    def stay(left: threading.Event) -> None:
        with span:
            assert left.wait(10)

    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(stay, left) for left in (first, second)]
        while span._inside < 2:
            pass
        first.set()
        ends[0].result(10)
        assert span
        second.set()
        ends[1].result(10)
    assert not span


def test_a_promotion_that_ends_does_not_end_the_recovery_of_the_node() -> None:
    work = UnderWay()
    with work.rebuilding.stage(60):
        with work.claiming(), work.promotion():
            assert work.promoting
        assert work.promoting, "facts must not say that the node is free"
    assert work.promoting, "pgpool-II attaches it next"
    work.rebuilding.end()
    assert not work.promoting


def test_one_thread_at_a_time_claims_a_term() -> None:
    work, inside, most = UnderWay(), 0, 0
    lock = threading.Lock()

    def claim(_: int) -> None:
        nonlocal inside, most
        with work.claiming():
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.001)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(claim, range(40)))
    assert most == 1


def test_a_failed_stage_ends_the_recovery_with_its_reason() -> None:
    rebuilding = Rebuilding()
    with pytest.raises(OperationError), rebuilding.stage(60):
        raise OperationError("no space", hint="df")
    assert (rebuilding.under_way, rebuilding.failure) == (False, "no space")
    assert rebuilding.refused("pgpool-II: recovery failed", aborted=True) == "no space", "the stage's own reason"


def test_a_lost_answer_of_pgpool_leaves_the_recovery_under_way() -> None:
    rebuilding = Rebuilding()
    with rebuilding.stage(60):
        pass
    assert rebuilding.refused("pg1 does not answer", aborted=False) == "pg1 does not answer"
    assert rebuilding.under_way


def test_one_request_for_a_recovery_is_held_at_a_time() -> None:
    rebuilding = Rebuilding()
    with rebuilding.request() as mine:
        assert mine
        with rebuilding.request() as second:
            assert not second
        assert rebuilding.requested, "the second one did not release it"
    assert not rebuilding.requested


def test_a_watch_that_ends_late_does_not_release_the_archive_of_the_next_recovery() -> None:
    drain = Drain()
    with drain.copying("000000010000000000000003"):
        pass
    began = drain.begin()
    with drain.finishing("pg3"):
        assert not drain.goes_on(began)
    with drain.copying("000000010000000000000009"):
        drain.give_up(began)
    assert drain.archive_from == "000000010000000000000009"


def test_an_answer_that_pgpool_gave_before_the_facts_were_forgotten_is_not_fresh() -> None:
    asked: list[int] = []
    began, answers = threading.Event(), threading.Event()
    found = [PgpoolFacts(WatchdogState.STANDBY, True, {}), PgpoolFacts(WatchdogState.LEADER, True, {})]

    def ask() -> PgpoolFacts:
        asked.append(1)
        began.set()
        assert answers.wait(10)
        return found[len(asked) - 1]

    view = PgpoolView(ask)
    assert view.get(wait=False) is None
    assert began.wait(10)
    view.forget()
    answers.set()
    assert view.get(wait=True) is found[0], "it joins the running query"
    assert view.get(wait=True) is found[1]


def test_a_query_of_pgpool_that_hangs_does_not_delay_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a host that has been lost, and the next one does not ask about that host."""
    monkeypatch.setattr(pgpool_view, "_WAIT_SECONDS", 0.01)
    first, last = (PgpoolFacts(state, True, {}) for state in (WatchdogState.STANDBY, WatchdogState.LEADER))
    asked: list[int] = []
    released = threading.Event()

    def ask() -> PgpoolFacts:
        asked.append(1)
        if len(asked) == 1:
            assert released.wait(10)
            return first
        return last

    view = PgpoolView(ask)
    assert view.get(wait=True) is None
    assert view.get(wait=True) is None
    assert len(asked) == 1
    view.forget()
    while view.get(wait=True) is None:
        time.sleep(0.01)
    assert view.get(wait=True) is last
    hanging = [thread for thread in threading.enumerate() if thread.name.endswith("(_run)")]
    released.set()
    for thread in hanging:
        thread.join()
    assert view.get(wait=False) is last, "the late answer is older"


def test_a_query_of_pgpool_that_fails_leaves_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    last = PgpoolFacts(WatchdogState.LEADER, True, {})
    answers: list[PgpoolFacts | None] = [last]
    view = PgpoolView(answers.pop)
    assert view.get(wait=True) is last
    view.forget()
    assert view.get(wait=True) is last
    view.forget()
    assert view.get(wait=True) is last, "it is asked again, and not for ever"
