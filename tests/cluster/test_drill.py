"""Ten runs of the drill: nothing is lost when faults strike while clients append to lists and read them."""

from __future__ import annotations

import pytest
from tests.cluster.drill import Series, report

from pgpool_deb.ground.releases import Release

SEEDS = range(1, 11)


@pytest.mark.thorough
def test_ten_drills_lose_nothing(series: Series, release: Release) -> None:
    failures = series.failures(SEEDS)
    assert not failures, report(failures, release.name, series.mode)
