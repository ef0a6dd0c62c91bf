"""The drill's checker finds each kind of anomaly in a hand-made history, and none in a correct one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from tests.drill import checker
from tests.drill.checker import Verdict, check
from tests.drill.cycles import Cycle
from tests.drill.operations import FAILED, UNKNOWN, Operation
from tests.drill.promises import PROMISES, Promise

STREAMING = PROMISES["streaming_replication"]
SNAPSHOT = PROMISES["snapshot_isolation"]
PG1, PG2 = "198.18.0.10", "198.18.0.11"


def appended(value: int, at: float = 0.0, name: str = "x", client: str = "writer", **others: object) -> Operation:
    return replace(Operation(client, 1, at, at + 0.1, appends={name: value}), **others)  # type: ignore[arg-type]


def seen(at: float = 1.0, node: str = PG1, client: str = "reader", **lists: Sequence[int]) -> Operation:
    reads = {name: tuple(values) for name, values in lists.items()}
    return Operation(client, 1, at, at + 0.1, reads=reads, node=node, standby=node != PG1)


def verdict(
    *history: Operation, promise: Promise = STREAMING, final: Mapping[str, Sequence[int]] | None = None
) -> Verdict:
    lists = {name: tuple(values) for name, values in (final or {"x": (1, 2), "y": ()}).items()}
    return check(history, {PG1: lists, PG2: lists}, promise)


def kinds(found: Verdict) -> set[str]:
    return {anomaly.kind for anomaly in found.broken}


RIGHT = (appended(1, 0.0), appended(2, 0.5), seen(0.2, x=[1]), seen(0.6, PG2, x=[1]), seen(1.0, x=[1, 2], y=[]))


@pytest.mark.parametrize("mode", PROMISES)
def test_a_correct_history_keeps_the_promise_of_every_mode(mode: str) -> None:
    found = verdict(*RIGHT, promise=PROMISES[mode])
    assert found.broken == ()
    assert found.counterexample is None
    assert (found.operations, found.outcomes, found.permitted) == (5, {"ok": 5}, {})


def test_an_acknowledged_append_that_is_missing_at_the_end_is_lost() -> None:
    found = verdict(*RIGHT, appended(3, 2.0))
    assert kinds(found) == {checker.LOST}
    assert found.counterexample is not None
    assert found.counterexample.operations == (appended(3, 2.0),)


@pytest.mark.parametrize("outcome", [FAILED, UNKNOWN])
def test_an_append_without_acknowledgement_may_be_missing(outcome: str) -> None:
    assert verdict(*RIGHT, appended(3, 2.0, outcome=outcome)).broken == ()


def test_an_append_without_an_answer_may_be_there() -> None:
    assert verdict(RIGHT[0], appended(2, 0.5, outcome=UNKNOWN), *RIGHT[2:]).broken == ()


def test_a_value_of_a_failed_append_may_not_be_there() -> None:
    assert kinds(verdict(RIGHT[0], appended(2, 0.5, outcome=FAILED))) == {checker.ABORTED}


def test_a_read_of_a_failed_append_is_found() -> None:
    assert kinds(verdict(*RIGHT, appended(3, 0.5, outcome=FAILED), seen(x=[1, 3]))) == {checker.ABORTED}


def test_a_value_that_no_client_wrote_is_found_at_the_end_and_in_a_read() -> None:
    assert kinds(verdict(RIGHT[0])) == {checker.UNWRITTEN}
    assert kinds(verdict(*RIGHT, seen(x=[1, 9]))) == {checker.UNWRITTEN}
    assert kinds(verdict(*RIGHT, seen(z=[1]))) == {checker.UNWRITTEN}


def test_a_value_that_is_there_twice_is_found() -> None:
    assert kinds(verdict(*RIGHT, final={"x": (1, 2, 2)})) == {checker.TWICE}


@pytest.mark.parametrize("values", [[2], [2, 1], [1, 3], [1, 2, 3]])
def test_a_read_that_is_not_a_prefix_of_the_final_list_is_found(values: list[int]) -> None:
    found = verdict(*RIGHT, appended(3, 0.5, outcome=UNKNOWN), seen(x=values))
    assert kinds(found) == {checker.NOT_A_PREFIX}
    assert found.counterexample is not None
    assert found.counterexample.operations[-1].reads == {"x": tuple(values)}


def test_nodes_that_differ_at_the_end_are_found() -> None:
    found = check(RIGHT, {PG1: {"x": (1, 2)}, PG2: {"x": (1,)}}, STREAMING)
    assert kinds(found) == {checker.DIVERGED}
    assert PG1 in str(found.counterexample)
    assert PG2 in str(found.counterexample)


@pytest.mark.parametrize(
    ("node", "late", "broken"), [(PG1, 2.9, False), (PG1, 3.1, True), (PG2, 44.9, False), (PG2, 45.1, True)]
)
def test_a_read_may_be_as_old_as_the_mode_says_for_its_node(node: str, late: float, broken: bool) -> None:
    acknowledged = RIGHT[1].ended
    found = verdict(*RIGHT, seen(acknowledged + late, node, x=[1]))
    assert kinds(found) == ({checker.STALE} if broken else set())
    if found.counterexample:
        assert found.counterexample.operations[0] == RIGHT[1]


def test_a_pause_of_a_node_lengthens_the_limit() -> None:
    late = seen(RIGHT[1].ended + 10.0, x=[1])
    assert kinds(verdict(*RIGHT, late, promise=STREAMING.allowing(pause=8.0))) == set()
    assert kinds(verdict(*RIGHT, late, promise=STREAMING.allowing(pause=6.0))) == {checker.STALE}


def test_a_stale_read_is_found_where_the_later_value_was_acknowledged_first() -> None:
    first, second = appended(1, 0.0, ended=9.0), appended(2, 0.5)
    assert kinds(verdict(first, second, seen(5.0, x=[1]))) == {checker.STALE}


def test_a_session_sees_its_own_appends() -> None:
    own = [appended(1, client="one"), appended(2, 0.5, client="one"), seen(0.7, client="one", x=[1])]
    assert kinds(verdict(*own)) == {checker.OWN}
    other_session = replace(own[2], session=2)
    assert kinds(verdict(*own[:2], other_session)) == set()
    before = replace(own[2], began=0.5)
    assert kinds(verdict(*own[:2], before)) == set()


def test_own_writes_are_counted_where_the_mode_does_not_promise_them() -> None:
    own = [appended(1, client="one"), appended(2, 0.5, client="one"), seen(0.7, client="one", x=[1])]
    found = verdict(*own, promise=replace(STREAMING, own_writes=False))
    assert (found.broken, found.permitted) == ((), {checker.OWN: 1})


TWO_LISTS = {"x": (1,), "y": (2,)}


def fork(first: str, second: str) -> tuple[Operation, ...]:
    """Two independent appends, seen in different orders by two reads."""
    appends = (appended(1, 0.0), appended(2, 0.0, "y", "other"))
    return *appends, seen(0.05, first, x=[1], y=[]), seen(0.05, second, x=[], y=[2])


def test_a_long_fork_between_nodes_is_counted_where_reads_of_standbys_are_permitted() -> None:
    found = verdict(*fork(PG1, PG2), final=TWO_LISTS)
    assert (found.broken, found.permitted) == ((), {Cycle.FORK: 1})


@pytest.mark.parametrize("node", [PG1, PG2])
def test_a_long_fork_on_one_node_is_broken(node: str) -> None:
    found = verdict(*fork(node, node), final=TWO_LISTS)
    assert kinds(found) == {Cycle.FORK}
    assert node in str(found.counterexample)


def test_a_long_fork_between_nodes_is_broken_in_snapshot_isolation() -> None:
    found = verdict(*fork(PG1, PG2), final=TWO_LISTS, promise=SNAPSHOT)
    assert kinds(found) == {Cycle.FORK}
    assert found.counterexample is not None
    assert len(found.counterexample.operations) == 4


def test_transactions_that_overwrite_each_other_in_different_orders_are_a_cycle_of_writes() -> None:
    one = Operation("one", 1, 0.0, 0.1, appends={"x": 1, "y": 3})
    two = Operation("two", 1, 0.0, 0.1, appends={"x": 2, "y": 4})
    assert Cycle.WRITES in kinds(verdict(one, two, final={"x": (1, 2), "y": (4, 3)}))
    assert kinds(verdict(one, two, final={"x": (1, 2), "y": (3, 4)})) == set()


def test_transactions_that_read_each_others_values_are_a_circular_flow() -> None:
    one = Operation("one", 1, 0.0, 0.1, appends={"x": 1}, reads={"y": (2,)}, node=PG1)
    two = Operation("two", 1, 0.0, 0.1, appends={"y": 2}, reads={"x": (1,)}, node=PG1)
    assert Cycle.FLOW in kinds(verdict(one, two, final=TWO_LISTS))


def test_a_read_of_half_a_transaction_is_a_cycle_with_one_overwritten_read() -> None:
    both = Operation("one", 1, 0.0, 0.1, appends={"x": 1, "y": 2})
    assert kinds(verdict(both, seen(0.05, x=[1], y=[]), final=TWO_LISTS)) == {Cycle.SINGLE}
    assert kinds(verdict(both, seen(0.05, PG2, x=[1], y=[]), final=TWO_LISTS)) == {Cycle.SINGLE}
    assert kinds(verdict(both, seen(0.05, x=[1], y=[2]), final=TWO_LISTS)) == set()


def test_a_read_depends_on_the_writer_of_the_last_value_that_it_saw() -> None:
    earlier, both = appended(0), Operation("one", 1, 0.0, 0.1, appends={"x": 1, "y": 2})
    final = {"x": (0, 1), "y": (2,)}
    assert kinds(verdict(earlier, both, seen(0.05, x=[0, 1], y=[]), final=final)) == {Cycle.SINGLE}
    assert kinds(verdict(earlier, both, seen(0.05, x=[0], y=[]), final=final)) == set()


def test_a_transaction_that_reads_a_list_and_then_appends_to_it_does_not_depend_on_itself() -> None:
    """Its dependencies on itself would be a cycle wherever others have one."""
    own = Operation("own", 1, 0.0, 0.1, appends={"x": 1}, reads={"x": ()}, node=PG1)
    found = verdict(own, *fork(PG1, PG2)[1:], final=TWO_LISTS)
    assert (found.broken, found.permitted) == ((), {Cycle.FORK: 1})


def test_two_updates_of_the_same_read_are_a_cycle() -> None:
    """A lost update: both read the empty list, and both append."""
    one = Operation("one", 1, 0.0, 0.1, appends={"x": 1}, reads={"x": ()}, node=PG1)
    two = Operation("two", 1, 0.0, 0.1, appends={"x": 2}, reads={"x": ()}, node=PG1)
    assert kinds(verdict(one, two, final={"x": (1, 2)})) == {Cycle.SINGLE}


def test_the_counterexample_is_the_anomaly_with_the_fewest_operations() -> None:
    found = verdict(*fork(PG1, PG1), appended(3, 2.0), final=TWO_LISTS)
    assert kinds(found) == {Cycle.FORK, checker.LOST}
    assert found.counterexample is not None
    assert found.counterexample.kind == checker.LOST
    assert "append 3 to x" in str(found.counterexample)


def test_a_history_of_realistic_length_is_checked_fast() -> None:
    """4,000 appends to 8 lists, and 2,000 reads that lag behind by up to 50 appends."""
    appends = [appended(number, number / 100, str(number % 8)) for number in range(4000)]
    final = {str(name): tuple(range(name, 4000, 8)) for name in range(8)}
    reads = []
    for number in range(2000):
        known = number * 2 - number % 50
        lists = {str(name): [value for value in final[str(name)] if value < known] for name in range(3)}
        reads.append(seen(number / 50 + 0.5, PG2, "reader", **lists))
    assert verdict(*appends, *reads, final=final).broken == ()
