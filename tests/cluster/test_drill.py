"""Ten runs of the drill: nothing is lost when faults strike while clients append to lists and read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import STREAMING
from tests.cluster.drill import Series, report
from tests.cluster.images import Images
from tests.cluster.lab import Lab

from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release

SEEDS = range(1, 11)


@pytest.fixture
def series(room: Lab, of_release: Images, project: Project) -> Iterator[Series]:
    made = Series(room, of_release.prepared, STREAMING, project.dist / "drills")
    yield made
    made.clear()


@pytest.mark.thorough
def test_ten_drills_lose_nothing(series: Series, release: Release) -> None:
    failures = {seed: why for seed in SEEDS if (why := series.run(seed))}
    assert not failures, report(failures, release.name, STREAMING)
