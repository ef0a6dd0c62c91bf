"""Sizes and times in the notation of PostgreSQL."""

from __future__ import annotations

import pytest

from pgpool_cluster.decision.facts import quantities


@pytest.mark.parametrize(
    ("text", "unit", "size"),
    [("16GB", "MB", 2**34), ("128", "8kB", 2**20), ("1.5 kB", "", 1536), ("10s", "ms", 1e4), ("-1", "MB", -1),
     ("10", "s", 1e4), ("on", "", None), ("5", "", 5)],
)  # fmt: skip
def test_sizes_and_times_are_read_with_any_unit(text: str, unit: str, size: float | None) -> None:
    assert quantities.quantity(text, unit) == size
