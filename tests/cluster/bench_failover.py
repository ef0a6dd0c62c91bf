"""`./invoke bench failover`: how long clients cannot write when a part of the cluster fails or is restarted.

pytest runs it to use its fixtures. The hosts stay booted: each run injects one fault, heals it, and waits until the
cluster is healthy.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from tests.built import Built
from tests.cluster.clients import Recording, Stage, healed, recording, staged, through
from tests.cluster.cluster import APP, Cluster
from tests.cluster.conftest import labs
from tests.cluster.faults import CUT_OFF, HOST_KILLED, HOST_SILENT, POSTGRESQL_KILLED, Fault
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.cluster.load import pgbench
from tests.drill import figures
from tests.drill.client import Specification
from tests.host import Host, together

from pgpool_deb.automation.bench import publish
from pgpool_deb.ground.project import Project

CALM_SECONDS = 2.0
AFTERWARDS_SECONDS = 2.0
"""The time that clients keep running once all of them are served again."""
CUT_SECONDS = 20.0
"""The time that a primary stays cut off."""
PACES = {"kept": 0.01, "short": 0.05}
"""Seconds between transactions. A session each 10 ms would keep both cores busy with TLS and SCRAM."""
IDLE_SECONDS = 60
RETURN_SECONDS = 60
"""The longest wait for the return of the former primary; it also is the figure of a run that waits in vain."""
CREATE = "CREATE TABLE written (client text, number int, PRIMARY KEY (client, number))"
STREAMS = """
end=$(($(date +%s) + {seconds}))
until [ "$(runuser -u postgres -- psql -XAtqc "SELECT count(*) FROM pg_stat_replication
    WHERE client_addr = '{address}' AND state = 'streaming'")" = 1 ] || [ "$(date +%s)" -ge $end ]; do sleep 0.05; done
date +%s.%N
"""
"""Prints the time at which a standby streams from this primary, or at which the wait ends."""
USED = "for unit in pgpool2-cluster pgpool2; do systemctl show -P CPUUsageNSec $unit; done"
RESTART = "if pgpoolctl restart --help >/dev/null 2>&1; then pgpoolctl restart; else systemctl restart postgresql; fi"
"""The planned restart; packages without the verb restart only the primary's PostgreSQL."""


@dataclass(slots=True)
class Failovers:
    """A cluster under measurement, and the clients of its latest run."""

    stage: Stage
    run: Recording | None = None

    @property
    def cluster(self) -> Cluster:
        return self.stage.cluster

    def ordered(self, first: Host) -> str:
        """Return the connection string for all hosts, beginning with the one that libpq tries first."""
        return through(first, *self.cluster.others(first))

    def writers(self, first: Host) -> list[Specification]:
        """Return writers through the virtual address and through all hosts, with kept and with short sessions."""
        return clients(("virtual", "write", through(self.stage.virtual)), ("hosts", "write", self.ordered(first)))

    @contextmanager
    def running(self, given: Sequence[Specification]) -> Iterator[Recording]:
        """Run clients on an empty table during the block."""
        self.cluster.ask("TRUNCATE written", at=self.stage.client, through=self.cluster.primary())
        with recording(self.stage.client, given) as self.run:
            time.sleep(CALM_SECONDS)
            yield self.run

    def nothing_lost(self) -> None:
        """Check that no acknowledged row of the latest run is lost, and that one server accepts writes."""
        assert self.run is not None
        (name, *others) = self.cluster.writable()
        assert not others, f"{name} and {others} are writable"
        rows = self.cluster.named(name).psql("SELECT client, number FROM written", database=APP).splitlines()
        present = {(client, int(number)) for client, _, number in (row.rpartition("|") for row in rows)}
        acknowledged = {item for one in self.run.history if one.acknowledged for item in one.appends.items()}
        lost = sorted(acknowledged - present)
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged rows are lost: {lost[:5]}"


def clients(*given: tuple[str, str, str], after: int = 0, kinds: Sequence[str] = tuple(PACES)) -> list[Specification]:
    """Return clients of these kinds for each label, role and connection string, numbered from `after` + 1."""
    every = [(*one, kind) for one in given for kind in kinds]
    return [
        Specification(f"{label}, {kind}", number, role, dsn, kept=kind == "kept", pace=PACES[kind])
        for number, (label, role, dsn, kind) in enumerate(every, start=after + 1)
    ]


def gap(run: Recording, label: str, since: float, until: float) -> float:
    """Return the longest time that one of the clients with this label had no acknowledged write."""
    return max(figures.longest_gap(run.of(name), since, until) for name in run.labelled(label))


def gaps(run: Recording, name: str, since: float, until: float) -> dict[str, float]:
    """Return the figures for clients of the virtual address and of the list of hosts."""
    return {name: gap(run, "virtual", since, until), f"{name} hosts": gap(run, "hosts", since, until)}


def until_served(run: Recording, after: float = 1.0) -> float:
    """Wait until all clients are served, and a moment longer; return the time then."""
    run.served(time.time() + after)
    time.sleep(AFTERWARDS_SECONDS)
    return time.time()


def postgresql(bench: Failovers) -> dict[str, float]:
    """PostgreSQL of the primary is killed and cannot start until another primary serves."""
    victim = bench.cluster.primary()
    with bench.running(bench.writers(victim)) as run:
        since = time.time()
        POSTGRESQL_KILLED.begin(bench.cluster, victim)
        until = until_served(run)
    POSTGRESQL_KILLED.end(bench.cluster, victim)
    return gaps(run, "postgresql-killed", since, until)


def primary(bench: Failovers, fault: Fault, name: str) -> dict[str, float]:
    """The host of the primary is lost, and boots once another primary serves."""
    victim = bench.cluster.primary()
    bystander = bench.cluster.others(victim)[0]
    given = bench.writers(victim)
    patient = [("patient at the address", bench.stage.virtual), ("patient elsewhere", bystander)]
    given += clients(*((label, "write", through(host, patient=True)) for label, host in patient), after=len(given),
                     kinds=("kept",))  # fmt: skip
    with bench.running(given) as run:
        since = time.time()
        fault.begin(bench.cluster, victim)
        until = until_served(run)
    successor = bench.cluster.primary(bystander)
    booted = time.time()
    victim.container.start()
    said = successor.run(STREAMS.format(seconds=RETURN_SECONDS, address=victim.address), seconds=120)
    streams = float(said.splitlines()[-1])
    victim.booted()
    in_flight = max(figures.first_error(run.of(client), since) for client in run.labelled("patient"))
    return {**gaps(run, name, since, until), "in flight": in_flight, "return": streams - booted}


def standby(bench: Failovers, fault: Fault, name: str) -> dict[str, float]:
    """The host of a standby is lost, and boots again."""
    first = bench.cluster.primary()
    victim = bench.cluster.others(first)[0]
    given = clients(
        ("on it", "write", bench.ordered(victim)),
        ("virtual", "write", through(bench.stage.virtual)),
        ("hosts", "write", bench.ordered(first)),
    )
    with bench.running(given) as run:
        since = time.time()
        fault.begin(bench.cluster, victim)
        until = until_served(run)
    fault.end(bench.cluster, victim)
    others = [*run.labelled("virtual"), *run.labelled("hosts")]
    return {
        name: gap(run, "on it", since, until),
        f"{name} others": max(gaps(run, name, since, until).values()),
        f"{name} errors": figures.errors_in(run.of(*others), since, until),
    }


def cut_off(bench: Failovers) -> dict[str, float]:
    """The primary reaches no other node; the clients are on its side and reach no other pgpool-II."""
    victim = bench.cluster.primary()
    given = clients(("its side", "write", through(victim)), ("its readers", "query", through(victim)))
    with bench.running(given) as run:
        since = time.time()
        CUT_OFF.begin(bench.cluster, victim)
        time.sleep(CUT_SECONDS)
        CUT_OFF.end(bench.cluster, victim)
        time.sleep(AFTERWARDS_SECONDS)
        healed(bench.cluster)
    while_cut = since + CUT_SECONDS
    before_healing = [one for one in run.history if one.ended < while_cut]
    writes = [one for one in before_healing if one.client.startswith("its side")]
    reads = [one for one in before_healing if one.client.startswith("its readers")]
    return {
        "cut-off writes": figures.last_acknowledged(writes, since),
        "cut-off reads": figures.last_acknowledged(reads, since),
    }


def planned(bench: Failovers, name: str, command: Callable[[Failovers, Host], str]) -> dict[str, float]:
    """An administrator types a command on the primary while writers, and `pgbench -C`, run."""
    first = bench.cluster.primary()
    given = bench.writers(first)
    with bench.running(given) as run, pgbench(bench.stage.client, bench.stage.virtual, "-C -c 1 -N -R 20", APP) as load:
        time.sleep(CALM_SECONDS)
        since = time.time()
        first.run(command(bench, first), seconds=180)
        until = until_served(run, after=0.0)
    short = [client for client in run.names if client.endswith("short")]
    kept = [client for client in run.names if client.endswith("kept")]
    return {
        **gaps(run, name, since, until),
        f"{name} errors": load.failed + figures.errors_in(run.of(*short), since, until),
        f"{name} kept": max(figures.errors_in(run.of(client), since, until) for client in kept),
    }


def switchover(bench: Failovers, first: Host) -> str:
    return f"pgpoolctl switchover {bench.cluster.others(first)[0]}"


def restart(_: Failovers, __: Host) -> str:
    return RESTART


CASES: Mapping[str, Callable[[Failovers], dict[str, float]]] = {
    "postgresql-killed": postgresql,
    "primary-killed": partial(primary, fault=HOST_KILLED, name="primary-killed"),
    "primary-silent": partial(primary, fault=HOST_SILENT, name="primary-silent"),
    "standby-killed": partial(standby, fault=HOST_KILLED, name="standby-killed"),
    "standby-silent": partial(standby, fault=HOST_SILENT, name="standby-silent"),
    "cut-off": cut_off,
    "switchover": partial(planned, name="switchover", command=switchover),
    "restart": partial(planned, name="restart", command=restart),
}


def idle(cluster: Cluster) -> float:
    """Return the share of a core that agent and pgpool-II of the busiest node use without clients, in percent."""

    def used(host: Host) -> int:
        return sum(map(int, host.run(USED).split()))

    before = together(used, cluster.hosts)
    time.sleep(IDLE_SECONDS)
    after = together(used, cluster.hosts)
    return max(late - early for early, late in zip(before, after, strict=True)) / 1e9 / IDLE_SECONDS * 100


@dataclass(slots=True)
class Account:
    """The figures of all runs so far; each run is also a JSON line in dist/bench/failover-runs.jsonl."""

    project: Project
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, case: str, found: Mapping[str, float], **more: object) -> None:
        """Keep the figures of one run."""
        for name, value in found.items():
            self.samples.setdefault(name, []).append(value)
        row = json.dumps({"case": case, "load": os.getloadavg()[0], **more, **found})
        print(row)
        path = self.project.dist / "bench" / "failover-runs.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(row + "\n")


@pytest.fixture
def stage(room: Lab, of_release: Images) -> Iterator[Stage]:
    """A cluster of three with a virtual address, and its client."""
    made = staged(room, of_release.prepared)
    yield made
    room.remove((*made.cluster.hosts, made.client))


def test_bench(stage: Stage, packages: Built, project: Project, request: pytest.FixtureRequest) -> None:
    runs = int(request.config.getoption("--runs"))
    named = [name for name in request.config.getoption("--cases").split(",") if name]
    bench, account = Failovers(stage), Account(project)
    stage.cluster.ask(CREATE, at=stage.client, through=stage.cluster.primary())
    stage.client.run(f"PGSSLMODE=require pgbench -q -i -s 1 -h {stage.virtual.address} -p 9999 -U {APP} {APP}")
    account.add("idle", {"idle": idle(stage.cluster)})
    try:
        for case in named or CASES:
            for number in range(runs):
                found = CASES[case](bench)
                account.add(case, found, run=number, recovered=healed(stage.cluster))
                bench.nothing_lost()
    except (AssertionError, ValueError):  # ValueError: the cluster has no primary, or two
        print(labs[-1].journals())
        raise
    finally:
        print(figures.quantiles(account.samples))
        publish(figures.rows(packages.release.name, account.samples), project.dist / "bench" / "failover.json")
