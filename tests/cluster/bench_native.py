"""`./invoke bench cluster --mode native_replication`: how long a recovery blocks clients, and the cost of writes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
from tests.built import Built
from tests.cluster.bench_cluster import SCALE, timed, tps
from tests.cluster.cluster import APP, APP_PASSWORD, DATA, Cluster
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.cluster.load import ledger
from tests.cluster.native import STOP, equal, given_up
from tests.host import Host, together

from pgpool_deb.automation.bench import BenchRow, publish
from pgpool_deb.ground.project import Project

RECOVERIES = 50
WRITE = "pgbench -n -N -c 4 -j 2 -T 10"


@pytest.fixture
def cluster(room: Lab, of_release: Images) -> Iterator[Cluster]:
    booted = room.boot(of_release.prepared, "pg1", "pg2", "pg3")
    made = Cluster.of(booted, "native_replication")
    made.deploy()
    yield made
    room.remove(booted)


def held(cluster: Cluster) -> list[float]:
    """Return, for each recovery, the longest time without an acknowledged write, in seconds.

    The writer uses one session per row, so its last session ends at once, and the second stage takes the rest.
    """
    pg1, _, pg3 = cluster.hosts
    found = []
    for number in range(RECOVERIES):
        pg3.run(STOP)
        given_up(cluster, "pg3")
        with ledger(cluster, at=pg1, through=pg1, name=f"recovery {number}") as written:
            pg1.run("pgpoolctl recover pg3", seconds=300)
        assert written.lost(pg3) == set()
        found.append(written.longest_gap)
    return found


def recovery(cluster: Cluster, pairs: int) -> tuple[float, float]:
    """Return medians of `pgpoolctl recover` and of pg_basebackup of the same data."""
    pg1, _, pg3 = cluster.hosts
    plain = (
        "runuser -u postgres -- pg_basebackup -c fast -X stream -D /var/lib/postgresql/plain "
        f"-d 'host={pg1.address} user=pgpool_replication sslmode=require'"
    )
    ours, theirs = [], []
    for _ in range(pairs):
        theirs.append(timed(lambda: pg3.run(plain, seconds=600)))
        pg3.run(f"rm -rf /var/lib/postgresql/plain; {STOP}; find {DATA} -mindepth 1 -delete; sync")
        given_up(cluster, "pg3")
        ours.append(timed(lambda: pg1.run("pgpoolctl recover pg3", seconds=600)))
        cluster.wait_healthy()
    return statistics.median(ours), statistics.median(theirs)


def power_cut(cluster: Cluster) -> float:
    """Return seconds from the moment that all hosts have power again to healthy, with every row on every node."""
    together(Host.kill, cluster.hosts)

    def power() -> None:
        together(Host.start, cluster.hosts)
        cluster.wait_healthy(600)

    seconds = timed(power)
    equal(cluster)
    return seconds


def writes(at: Host, place: str, pairs: int) -> float:
    return statistics.median(tps(at.run(f"{WRITE} {place} bench", seconds=60)) for _ in range(pairs))


def test_bench(cluster: Cluster, packages: Built, project: Project, pairs: int) -> None:
    pg1 = cluster.hosts[0]
    pg1.put("/root/.pgpass", f"*:*:*:{APP}:{APP_PASSWORD}\n", mode=0o600)
    waits = sorted(held(cluster))
    for host in cluster.hosts:
        host.psql(f"CREATE DATABASE bench OWNER {APP}")
    through = f"-h {pg1.address} -p 9999 -U {APP}"
    cuts = statistics.median(power_cut(cluster) for _ in range(pairs))
    pg1.run(f"PGSSLMODE=require pgbench -q -i -s {SCALE} {through} bench", seconds=900)
    ours, theirs = recovery(cluster, pairs)
    cluster.wait_healthy()
    three = writes(pg1, through, pairs)
    pg1.run("pgpoolctl detach pg3")
    given_up(cluster, "pg3")
    two = writes(pg1, through, pairs)
    pg1.run("pgpoolctl detach pg2")
    given_up(cluster, "pg2")
    one = writes(pg1, through, pairs)
    single = writes(pg1, f"-h {pg1.address} -p 5432 -U {APP}", pairs)
    name = packages.release.name
    tail = waits[min(len(waits) - 1, round(0.99 * len(waits)) - 1)]
    median = statistics.median(waits)
    rows = [
        BenchRow.absolute(f"{name}: second stage holds clients, median of {len(waits)}", median, unit="s", goal=1),
        BenchRow.absolute(f"{name}: second stage holds clients, 99th percentile", tail, unit="s", goal=2),
        BenchRow.compared(f"{name}: recover of 1 GB against pg_basebackup", ours, theirs, unit="s", goal=1.5),
        BenchRow.absolute(f"{name}: power cut of all hosts, to healthy", cuts, unit="s", goal=30),
        *(
            BenchRow.compared(f"{name}: pgbench -N on {count}, against a single server", rate, single,
                         unit="transactions/s", goal=0.0, better="higher")
            for count, rate in (("1 node", one), ("2 nodes", two), ("3 nodes", three))
        ),
    ]  # fmt: skip
    publish(rows, project.dist / "bench" / "cluster-native.json")
