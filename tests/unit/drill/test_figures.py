"""The figures of `bench failover`: gaps, quantiles, errors and rows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.drill import figures
from tests.drill.operations import FAILED, UNKNOWN, Operation


def writes(*times: float, outcome: str = "ok", session: int = 1, error: str = "") -> list[Operation]:
    return [Operation("w", session, time - 0.1, time, outcome, error=error) for time in times]


def test_the_longest_gap_is_that_between_acknowledgements() -> None:
    found = [*writes(1, 2, 3, 8, 9), *writes(4, 5, outcome=FAILED), *writes(6, outcome=UNKNOWN)]
    assert figures.longest_gap(found, 2.5, 10) == 5


def test_a_gap_begins_before_the_span_that_it_overlaps() -> None:
    assert figures.longest_gap(writes(1, 4, 5), 3, 6) == 3


def test_a_gap_that_does_not_end_lasts_to_the_end_of_the_span() -> None:
    assert figures.longest_gap(writes(1, 2), 2, 30) == 28
    assert figures.longest_gap([], 2, 30) == 28


def test_gaps_before_the_span_do_not_count() -> None:
    assert figures.longest_gap(writes(1, 10, 11, 12), 10, 12) == 1


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_a_value_with_enough_values_up_to_it(values: list[float], share: float) -> None:
    found = figures.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= math.floor(share * len(values))
    assert sum(value < found for value in values) < max(1, math.ceil(share * len(values)))


def test_quantiles_of_twenty_and_of_none() -> None:
    twenty = [float(number) for number in range(1, 21)]
    assert [figures.quantile(twenty, share) for share in (0.0, 0.5, 0.9, 1.0)] == [1, 10, 18, 20]
    with pytest.raises(ValueError, match="no values"):
        figures.quantile([], 0.5)


def test_the_last_acknowledgement_on_a_side_counts_from_the_fault() -> None:
    assert figures.last_acknowledged([*writes(9, 11, 12.5), *writes(14, outcome=FAILED)], 10) == 2.5
    assert figures.last_acknowledged(writes(9), 10) == 0


def test_a_session_gets_its_error_only_if_it_was_open_at_the_fault() -> None:
    before, hit = writes(9.9), writes(12.0, outcome=UNKNOWN, error="gone")
    later = writes(11.0, outcome=FAILED, session=2, error="refused")
    assert figures.first_error([*before, *hit, *later], 10) == 2.0
    assert figures.first_error([*before, *later], 10) == 0
    assert figures.first_error([], 10) == 0


def test_errors_are_counted_within_the_span() -> None:
    found = [*writes(5, 15, error="refused", outcome=FAILED), *writes(6)]
    assert figures.errors_in(found, 0, 10) == 1


def test_a_figure_has_rows_for_the_median_and_the_worst_run() -> None:
    made = figures.rows("trixie", {"return": [4.0, 5.0, 13.0], "primary-silent": [2.0], "in flight": []})
    assert [(row.case, row.ours, row.goal, row.reached) for row in made] == [
        ("trixie: the primary's host silent, virtual address, p50", 2.0, 3, True),
        ("trixie: the primary's host silent, virtual address, worst of 1", 2.0, 6, True),
        ("trixie: the former primary streams again, from its host's boot, p50", 5.0, 6, True),
        ("trixie: the former primary streams again, from its host's boot, worst of 3", 13.0, 12, False),
    ]


def test_names_of_figures_are_unique() -> None:
    assert len({figure.name for figure in figures.FIGURES}) == len(figures.FIGURES)


def test_the_quantiles_are_a_table() -> None:
    table = figures.quantiles({"return": [4.0, 5.0, 13.0]})
    assert table.splitlines()[-1] == "| return | 3 | 4 | 5 | 13 | 13 |"
