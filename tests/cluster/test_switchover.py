"""A planned change of the primary, and back, while clients write."""

from __future__ import annotations

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.load import ledger
from tests.host import Host


@pytest.mark.parametrize("name", ["pg3", "pg1"])
def test_the_primary_is_changed_and_no_acknowledged_row_is_lost(cluster: Cluster, pg2: Host, name: str) -> None:
    with ledger(cluster, at=pg2, through=pg2, name=f"to {name}") as written:
        said = pg2.run(f"pgpoolctl switchover {name}", seconds=120)
        cluster.wait_healthy(60)
    print(f"the longest time without an acknowledged write: {written.longest_gap:.1f} s")
    assert f"{name} is the primary" in said
    assert cluster.primary().name == name
    assert cluster.writable() == [name]
    assert written.lost(cluster.named(name)) == set()
    assert len(set(cluster.checksums().values())) == 1


def test_switchover_refuses_the_primary_and_unusable_standbys(cluster: Cluster, pg1: Host) -> None:
    answer = pg1.attempt("pgpoolctl switchover pg1")
    assert (answer.status, "is the primary already" in answer.output) == (1, True), answer.output
    pg1.run("pgpoolctl detach pg3")
    assert "hint: " in pg1.attempt("pgpoolctl switchover pg3").output
    pg1.run("pgpoolctl attach pg3")
    cluster.wait_healthy(60)
