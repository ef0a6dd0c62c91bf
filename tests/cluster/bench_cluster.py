"""`./invoke bench cluster`: how fast a cluster starts, recovers and answers. pytest runs it to use its fixtures."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.built import Built
from tests.cluster.cluster import APP, APP_PASSWORD, Cluster
from tests.cluster.images import PACKAGES, Images
from tests.cluster.lab import Lab
from tests.cluster.load import ledger, pgbench
from tests.host import Host, together

from pgpool_deb.automation.bench import BenchRow, publish
from pgpool_deb.ground.project import Project

SCALE = 70
"""Value of pgbench's -s for about 1 GB."""
SETTLING = 12.0
"""Seconds after which all checks of a restarted pgpool-II are active."""
STOCK_PORT = 9990
STOCK = f"""
install -d -o postgres /var/lib/postgresql/stock
cd /var/lib/postgresql/stock
dpkg-deb -x /var/cache/apt/archives/pgpool2_*.deb debians
dpkg-deb -x /var/cache/apt/archives/libpgpool[0-9]_*.deb debians
{{
    cat debians/usr/share/pgpool2/pgpool.conf
    echo "backend_clustering_mode = 'streaming_replication'"
    grep -E '^backend_(hostname|port|weight|data_directory|flag)[0-9] ' /etc/pgpool2/cluster/pgpool.conf
    echo "sr_check_user = '{APP}'"
    echo "sr_check_database = '{APP}'"
    echo "pool_passwd = '/etc/pgpool2/cluster/pool_passwd'"
    echo "port = {STOCK_PORT}"
    echo "pcp_port = 9890"
    echo "unix_socket_directories = '/var/run/postgresql'"
    echo "pcp_socket_dir = '/var/lib/postgresql/stock'"
    echo "wd_ipc_socket_dir = '/var/lib/postgresql/stock'"
    echo "pid_file_name = '/var/lib/postgresql/stock/pid'"
    echo "logdir = '/var/lib/postgresql/stock'"
}} >/var/lib/postgresql/stock/pgpool.conf
systemd-run -q --unit=stock --uid=postgres -E PGPOOLKEYFILE=/var/lib/postgresql/.pgpoolkey \\
    -E LD_LIBRARY_PATH="$(dirname "$PWD"/debians/usr/lib/*/libpcp.so.?)" \\
    /var/lib/postgresql/stock/debians/usr/sbin/pgpool -n -f /var/lib/postgresql/stock/pgpool.conf
"""


LOOKS = 200
ASKS = f"""
import sys
sys.path.insert(0, "/usr/share/pgpool2-cluster")
from pgpool_cluster.transport.channel import ask
from pgpool_cluster.transport.protocol import LookRequest
for _ in range({LOOKS}):
    assert ask(LookRequest(fresh=True)).node
"""
PLAIN_PORT = 9991
PLAIN = f"""
install -d -o postgres /var/lib/postgresql/plain
cd /var/lib/postgresql/plain
{{
    cat /etc/pgpool2/cluster/pgpool.conf
    echo "ssl = off"
    # The cluster's own roles are not let in without TLS.
    echo "health_check_period = 0"
    echo "sr_check_period = 0"
    echo "port = {PLAIN_PORT}"
    echo "pcp_port = 9891"
    echo "pcp_socket_dir = '/var/lib/postgresql/plain'"
    echo "pid_file_name = '/var/lib/postgresql/plain/pid'"
    echo "work_dir = '/var/lib/postgresql/plain'"
}} >pgpool.conf
chown postgres pgpool.conf
chmod 600 pgpool.conf
systemd-run -q --unit=plain --uid=postgres -E PGPOOLKEYFILE=/var/lib/postgresql/.pgpoolkey /usr/sbin/pgpool -n \\
    -f /var/lib/postgresql/plain/pgpool.conf -a /etc/pgpool2/cluster/pool_hba.conf
"""
SLICES = 5
"""Short runs per pair of `--pairs`; the sides alternate often, because the load by other guests varies."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The cluster to measure; `pairs`: number of runs for each side of a comparison."""

    cluster: Cluster
    pairs: int

    @property
    def source(self) -> Host:
        return self.cluster.hosts[0]

    @property
    def target(self) -> Host:
        return self.cluster.hosts[1]

    def coming_up(self) -> float:
        """Return seconds from unpacked packages to healthy, all hosts at once."""
        self.cluster.seed()
        together(lambda host: host.run(f"dpkg --unpack {PACKAGES}/pgpool2-cluster_*.deb"), self.cluster.hosts)
        return timed(self._configure)

    def _configure(self) -> None:
        together(lambda host: host.run("dpkg --configure -a </dev/null"), self.cluster.hosts)
        self.cluster.wait_healthy(600)

    def recovery(self) -> tuple[float, float, int]:
        """Return medians of `pgpoolctl recover` and of pg_basebackup, and how many transactions failed meanwhile."""
        as_postgres = "runuser -u postgres --"
        plain = (
            f"{as_postgres} pg_basebackup -c fast -X stream -D /var/lib/postgresql/plain "
            f"-d 'host={self.source.address} user=pgpool_replication sslmode=require'"
        )
        ours, theirs = [], []
        for _ in range(self.pairs):
            theirs.append(timed(lambda: self.target.run(plain, seconds=600)))
            self.target.run("rm -rf /var/lib/postgresql/plain")
            self._lose_data()
            ours.append(timed(lambda: self.target.run(f"pgpoolctl recover {self.target}", seconds=600)))
        self._lose_data()
        with pgbench(self.cluster.hosts[2], self.source, "-c 4 -j 2 -N") as load:
            self.target.run(f"pgpoolctl recover {self.target}", seconds=900)
        print(load.output)
        assert load.transactions > 0, load.output
        return statistics.median(ours), statistics.median(theirs), load.failed

    def _lose_data(self) -> None:
        data = "/var/lib/postgresql/*/main"
        self.target.run(f"systemctl stop 'postgresql@*'; rm -rf {data}/*; sync")
        self.cluster.until(
            lambda status: status.nodes[self.target.name].pgpool == "down", "pgpool-II gives the node up", 60
        )

    def reading(self) -> dict[str, float]:
        """Return transactions a second of `pgbench -S`, medians: direct, ours, Debian's defaults, ours without TLS."""
        host = self.cluster.hosts[2]
        for one in self.cluster.hosts:
            one.run(f"sed -i '$a host all {APP} {host.address}/32 scram-sha-256' /etc/postgresql/*/main/pg_hba.conf")
            one.psql("SELECT pg_reload_conf()")
        host.put("/root/.pgpass", f"*:*:*:{APP}:{APP_PASSWORD}\n", mode=0o600)
        host.run(STOCK)
        host.run(PLAIN)
        places = {
            "direct": where(self.source.address, 5432),
            "ours": where("/var/run/postgresql", 9999),
            "stock": where("/var/run/postgresql", STOCK_PORT),
            "plain": where("/var/run/postgresql", PLAIN_PORT),
        }
        for place in places.values():
            host.until(f"psql -XAtq {place} -c 'SELECT 1'", 60)
        found: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(SLICES * self.pairs):
            for name, place in places.items():
                found[name].append(tps(host.run(f"pgbench -n -S -c 8 -j 2 -T 2 {place}", seconds=60)))
        host.run("systemctl stop stock plain")
        return {name: statistics.median(rates) for name, rates in found.items()}

    def look(self) -> float:
        """Return the processor time, in ms, that an agent needs to collect its own facts, without its idle use."""
        idle, seconds = self._agent_uses("sleep 20")
        used, asked_for = self._agent_uses(f"/usr/bin/python3 -c '{ASKS}'")
        return (used - idle / seconds * asked_for) / LOOKS * 1000

    def _agent_uses(self, meanwhile: str) -> tuple[float, float]:
        """Return the source agent's processor time during a command, and the command's duration, in seconds."""
        cpu = "systemctl show -P CPUUsageNSec pgpool2-cluster"
        began = time.monotonic()
        before, after = self.source.run(f"{cpu}; {meanwhile} >/dev/null; {cpu}").split()
        return (int(after) - int(before)) / 1e9, time.monotonic() - began

    def failover(self) -> float:
        """Return the longest time without an acknowledged write when the primary's host is lost.

        The lost node is a standby in the end.
        """
        primary = self.cluster.primary()
        time.sleep(SETTLING)
        survivor = self.cluster.others(primary)[0]
        with ledger(self.cluster, at=survivor, through=survivor, name=f"failover of {primary}") as written:
            primary.kill()
            self.cluster.until(lambda status: any(
                node.role == "primary" for node in status.nodes.values() if node.name != primary.name
            ), "there is another primary", 60, survivor)  # fmt: skip
            time.sleep(SETTLING)
        assert written.lost(self.cluster.primary(survivor)) == set()
        primary.start()
        self.cluster.wait_healthy()
        return written.longest_gap

    def power_cut(self) -> float:
        """Return the seconds from the moment that all hosts have power again until the cluster is healthy."""
        together(Host.kill, self.cluster.hosts)
        return timed(self._power)

    def _power(self) -> None:
        together(Host.start, self.cluster.hosts)
        self.cluster.wait_healthy(600)


def where(host: str, port: int) -> str:
    """Return the connection string of the application's user for pgbench and psql."""
    return f"'host={host} port={port} user={APP} dbname=bench sslmode=prefer'"


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds `work` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def tps(output: str) -> float:
    """Return the rate that pgbench reports without connection times."""
    found = re.search(r"tps = ([0-9.]+) \(without initial connection time\)", output)
    assert found, output
    return float(found[1])


@pytest.fixture
def hosts(room: Lab, of_release: Images) -> Iterator[tuple[Host, ...]]:
    """Three hosts with everything except the cluster package."""
    booted = room.boot(of_release.prepared, "pg1", "pg2", "pg3")
    yield booted
    room.remove(booted)


def test_bench(hosts: tuple[Host, ...], packages: Built, project: Project, pairs: int) -> None:
    bench = Bench(Cluster.of(hosts), pairs)
    up = bench.coming_up()
    bench.cluster.add_app()
    bench.source.psql(f"CREATE DATABASE bench OWNER {APP}")
    bench.source.run(f"runuser -u postgres -- pgbench -q -i -s {SCALE} bench", seconds=900)
    bench.source.psql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {APP}", database="bench")
    gigabytes = int(bench.source.psql("SELECT sum(pg_database_size(oid)) FROM pg_database")) / 1e9
    ours, theirs, failed = bench.recovery()
    bench.cluster.wait_healthy()
    look = bench.look()
    rates = bench.reading()
    bench.cluster.wait_healthy()
    lost = statistics.median([bench.failover() for _ in range(pairs)])
    cut = statistics.median([bench.power_cut() for _ in range(pairs)])
    name = packages.release.name
    rows = [
        BenchRow.absolute(f"{name}: three hosts, from unpacked packages to healthy", up, unit="s", goal=120),
        BenchRow.compared(
            f"{name}: recover of {gigabytes:.1f} GB against pg_basebackup", ours, theirs, unit="s", goal=1.3
        ),
        BenchRow.absolute(
            f"{name}: writes that failed for others during a recovery", failed, unit="transactions", goal=0
        ),
        BenchRow.compared(
            f"{name}: pgbench -S, against Debian's own package with its default configuration",
            rates["ours"], rates["stock"], unit="transactions/s", goal=1.0, better="higher",
        ),
        BenchRow.compared(
            f"{name}: the same, had we no TLS towards PostgreSQL either", rates["plain"], rates["stock"],
            unit="transactions/s", goal=1.0, better="higher",
        ),
        BenchRow.compared(
            f"{name}: pgbench -S, against a direct connection", rates["ours"], rates["direct"], unit="transactions/s",
            goal=0.0, better="higher",
        ),
        BenchRow.absolute(f"{name}: the primary's host lost, others write again", lost, unit="s", goal=20),
        BenchRow.absolute(f"{name}: all hosts power-cycled, to healthy", cut, unit="s", goal=30),
        BenchRow.absolute(f"{name}: one round of the agent, CPU", look, unit="ms", goal=20),
    ]  # fmt: skip
    publish(rows, project.dist / "bench" / "cluster.json")
