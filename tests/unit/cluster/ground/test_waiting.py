"""A condition is polled until it holds or the deadline has passed."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest

from pgpool_cluster.ground import waiting
from pgpool_cluster.ground.waiting import poll


class Clock:
    """A clock that only sleeping and slow queries advance."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def shows_after(self, seconds: float) -> Callable[[], str]:
        """Return a query that has a result from then on."""
        begins = self.now + seconds
        return lambda: "here" if self.now >= begins else ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(waiting, "time", found)
    return found


def test_a_condition_that_holds_is_not_waited_for(clock: Clock) -> None:
    assert poll(lambda: "here", seconds=5, pause=1) == "here"
    assert clock.sleeps == []


def test_the_result_that_ends_the_wait_is_returned(clock: Clock) -> None:
    assert poll(clock.shows_after(1.5), seconds=5, pause=1) == "here"
    assert clock.sleeps == [1, 1]


def test_after_the_deadline_the_last_result_is_returned(clock: Clock) -> None:
    assert poll(clock.shows_after(9), seconds=2.5, pause=1) == ""
    assert clock.sleeps == [1, 1, 0.5]


def test_a_condition_that_holds_at_the_deadline_is_found(clock: Clock) -> None:
    assert poll(clock.shows_after(2.5), seconds=2.5, pause=1) == "here"


def test_without_time_there_is_one_query(clock: Clock) -> None:
    asked = []
    assert poll(lambda: asked.append(1), seconds=0, pause=1) is None
    assert (len(asked), clock.sleeps) == (1, [])


def test_a_slow_query_counts_against_the_deadline(clock: Clock) -> None:
    def slow() -> bool:
        clock.now += 3
        return False

    assert poll(slow, seconds=5, pause=1) is False
    assert clock.now == 107


def test_the_caller_defines_which_result_ends_the_wait(clock: Clock) -> None:
    left = ["pg2", "pg3"]

    def one_joins() -> list[str]:
        return left[: len(left) - len(clock.sleeps)]

    assert poll(one_joins, until=operator.not_, seconds=5, pause=1) == []
    assert poll(lambda: left, until=operator.not_, seconds=1, pause=1) == ["pg2", "pg3"]


def test_an_error_ends_the_wait(clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError):
        poll(lambda: 1 / 0, seconds=5, pause=1)
    assert clock.sleeps == []
