"""Of five servers, the rack with the primary and one standby loses power; only these two have the last commit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import Cluster, through_pgpool
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.cluster.load import Ledger, ledger
from tests.host import Host, together

pytestmark = pytest.mark.thorough

NAMES = ("pg1", "pg2", "pg3", "pg4", "pg5")
RACK = NAMES[:2]
AFTER = "runuser -u postgres -- psql -XAtqc \"SELECT count(*) FROM ledger WHERE writer = 'after'\" app"
DEAF = """
nft -f - <<'END'
table inet deaf {{
    chain stream {{
        type filter hook input priority -300;
        ip saddr {source} tcp sport 5432 meta length > 150 drop
    }}
}}
END
"""
"""Blocks WAL from this primary. Stopping the receivers would not suffice, because WAL waits in their sockets."""
GIVEN_UP_SECONDS = 45.0
"""Time after which every pgpool-II has given up both, which must make no difference."""


@pytest.fixture(scope="module")
def five(room: Lab, of_release: Images) -> Iterator[Cluster]:
    """A healthy cluster of five with pg1 as its primary."""
    made = Cluster.of(room.boot(of_release.prepared, *NAMES))
    made.deploy()
    yield made
    room.remove(made.hosts)


@pytest.fixture(scope="module")
def account(five: Cluster) -> Ledger:
    """Lose the rack while a client writes, and only pg2 has received the acknowledged writes."""
    rack = [five.named(name) for name in RACK]
    left = five.others(*rack)
    with ledger(five, at=left[0], through=left[0], name="rack") as written:
        together(lambda host: host.run(DEAF.format(source=rack[0].address)), left)
        time.sleep(2)
        together(Host.kill, rack)
        together(lambda host: host.run("nft delete table inet deaf"), left)
    return written


def test_1_no_other_node_takes_over_however_long_both_are_away(five: Cluster, account: Ledger) -> None:
    left = five.others(*(five.named(name) for name in RACK))
    end = time.monotonic() + GIVEN_UP_SECONDS
    while time.monotonic() < end:
        assert five.writable(*left) == []
        time.sleep(3)
    said = left[0].attempt("pgpoolctl status", seconds=60).output
    assert "a commit may be on pg2 alone" in said, said
    assert "--accept-loss" in said, said
    assert account.acknowledged


def test_2_if_only_the_standby_returns_it_becomes_the_primary_with_every_commit(five: Cluster, account: Ledger) -> None:
    pg2, pg5 = five.named("pg2"), five.named("pg5")
    pg2.start()
    five.until(lambda status: status.nodes["pg2"].role == "primary", "pg2 is the primary", 90, pg5)
    assert account.lost(pg2) == set()
    pg5.until(through_pgpool(pg5, pg5, "INSERT INTO ledger VALUES ('after', 1)"), 60)  # its pgpool-II may learn later


def test_3_the_former_primary_returns_by_itself(five: Cluster, account: Ledger) -> None:
    pg1 = five.named("pg1")
    pg1.start()
    five.wait_healthy()
    for host in five.hosts:
        host.until(f'[ "$({AFTER})" = 1 ]', 30)
        assert account.lost(host) == set(), host
