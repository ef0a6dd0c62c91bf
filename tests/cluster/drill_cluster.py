"""`./invoke drill`: a series of runs from a seed on. pytest runs it to use its fixtures."""

from __future__ import annotations

import pytest
from tests.cluster.drill import Series, report

from pgpool_deb.ground.releases import Release


def test_nothing_is_lost(series: Series, release: Release, request: pytest.FixtureRequest) -> None:
    first, runs = (int(request.config.getoption(name)) for name in ("--seed", "--runs"))
    failures = series.failures(range(first, first + runs))
    print(f"{runs - len(failures)} of {runs} runs lost nothing, seeds {first} to {first + runs - 1}")
    if failures:
        pytest.fail(report(failures, release.name, series.mode), pytrace=False)
