"""`./invoke drill`: a series of runs from a seed on. pytest runs it to use its fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.drill import Series, report
from tests.cluster.images import Images
from tests.cluster.lab import Lab

from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release


@pytest.fixture
def series(room: Lab, of_release: Images, project: Project, request: pytest.FixtureRequest) -> Iterator[Series]:
    """Runs on a cluster of the mode that `--mode` names."""
    made = Series(room, of_release.prepared, request.config.getoption("--mode"), project.dist / "drills")
    yield made
    made.clear()


def test_nothing_is_lost(series: Series, release: Release, request: pytest.FixtureRequest) -> None:
    first, runs = (int(request.config.getoption(name)) for name in ("--seed", "--runs"))
    failures = {seed: why for seed in range(first, first + runs) if (why := series.run(seed))}
    print(f"{runs - len(failures)} of {runs} runs lost nothing, seeds {first} to {first + runs - 1}")
    if failures:
        pytest.fail(report(failures, release.name, series.mode), pytrace=False)
