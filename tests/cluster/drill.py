"""One run of the drill: faults on booted hosts, clients that append to lists, and a check of their history."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from docker.errors import DockerException
from tests.cluster.clients import Recording, Stage, healed, recording, staged, through
from tests.cluster.cluster import APP, STREAMING, Cluster
from tests.cluster.faults import FAULTS, NAMED, PAUSES
from tests.cluster.lab import Lab
from tests.drill.checker import Lists, Verdict, check
from tests.drill.client import Specification
from tests.drill.operations import line
from tests.drill.promises import PROMISES, Promise
from tests.drill.schedule import ROLES, Step, draw, events
from tests.host import Host

LISTS = 8
CREATE = f"""
DROP TABLE IF EXISTS lists;
CREATE TABLE lists (name text PRIMARY KEY, items int[] NOT NULL DEFAULT '{{}}');
INSERT INTO lists (name) SELECT generate_series(0, {LISTS - 1})::text;
"""
FINAL = "SELECT json_object_agg(name, items) FROM lists"
AFTERWARDS_SECONDS = 3.0
CLIENTS = {"append": 3, "read": 2, "own": 2}
"""Clients of each role: appends alone, reads alone, and sessions that append and then read their own writes."""
PACE = 0.05


@dataclass(slots=True)
class Drill:
    """One run with a seed. Its schedule, history and verdict are in `folder`, also if it fails."""

    stage: Stage
    seed: int
    folder: Path
    recovered: list[str] = field(default_factory=list)
    """The nodes that had to be recovered by a command."""

    @property
    def cluster(self) -> Cluster:
        return self.stage.cluster

    def run(self) -> Verdict:
        """Inject the faults of the seed, heal them, and check the history.

        Raises AssertionError if a fault cannot be injected or the cluster does not become healthy.
        """
        steps = draw(self.seed, [fault.name for fault in FAULTS])
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("schedule.json", [asdict(step) for step in steps])
        print(f"seed {self.seed}:", *steps, sep="\n  ")
        self.cluster.ask(CREATE, at=self.stage.client, through=self.cluster.hosts[0])
        self.cluster.replayed()
        with self._recorded() as running:
            self._perform(steps)
            self.recovered += healed(self.cluster)
            running.served(time.time())
            time.sleep(AFTERWARDS_SECONDS)
        verdict = check(running.history, self._finals(), promised(self.cluster.mode, steps))
        self._write("verdict.json", self._summary(verdict))
        return verdict

    def _perform(self, steps: Sequence[Step]) -> None:
        """Begin and end the faults at their times. If one cannot begin, those that have begun end."""
        hosts = self._hosts()
        began, open_steps = time.monotonic(), list[Step]()
        try:
            for event in events(steps):
                time.sleep(max(0.0, began + event.at - time.monotonic()))
                fault, host = NAMED[event.step.fault], hosts[event.step.role]
                if event.begins:
                    open_steps.append(event.step)
                    fault.begin(self.cluster, host)
                else:
                    open_steps.remove(event.step)
                    fault.end(self.cluster, host)
        finally:
            for step in open_steps:
                NAMED[step.fault].end(self.cluster, hosts[step.role])

    def _hosts(self) -> Mapping[str, Host]:
        """Return the hosts by their role now."""
        first = self.cluster.primary() if self.cluster.mode == STREAMING else self.cluster.hosts[0]
        return dict(zip(ROLES, (first, *self.cluster.others(first)), strict=True))

    @contextmanager
    def _recorded(self) -> Iterator[Recording]:
        """Run the workload during the block, and write its history afterwards, also if the block fails."""
        kept: list[Recording] = []
        try:
            with recording(self.stage.client, workload(self.stage)) as running:
                kept.append(running)
                yield running
        finally:
            lines = [line(operation) for one in kept for operation in one.history]
            (self.folder / "history.jsonl").write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")

    def _finals(self) -> dict[str, Lists]:
        """Return the lists of each node by its address, those of a primary first."""
        self.cluster.replayed()
        found: dict[str, Lists] = {}
        writable = self.cluster.writable()
        for host in sorted(self.cluster.hosts, key=lambda host: host.name not in writable):
            lists = json.loads(host.psql(FINAL, database=APP))
            found[host.address] = {name: tuple(values) for name, values in lists.items()}
        return found

    def _summary(self, verdict: Verdict) -> dict[str, object]:
        return {
            "seed": self.seed,
            "mode": self.cluster.mode,
            "operations": verdict.operations,
            "outcomes": dict(verdict.outcomes),
            "broken": [str(anomaly) for anomaly in verdict.broken],
            "permitted": dict(verdict.permitted),
            "recovered": self.recovered,
        }

    def _write(self, name: str, content: object) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def workload(stage: Stage) -> list[Specification]:
    """Return the clients. Every second one uses the virtual address, the others all hosts, each from another one on."""
    given: list[Specification] = []
    hosts = stage.cluster.hosts
    for role, count in CLIENTS.items():
        for place in range(count):
            number = len(given) + 1
            first = hosts[number % len(hosts)]
            where = through(stage.virtual) if number % 2 else through(first, *stage.cluster.others(first))
            name = f"{role} {place + 1}"
            kept = role == "own" or place % 2 == 0
            given.append(Specification(name, number, role, where, kept=kept, pace=PACE, lists=LISTS))
    return given


def promised(mode: str, steps: Sequence[Step]) -> Promise:
    """Return the promise of a mode for a run: a node that stood still may serve reads from before."""
    pauses = [step.until - step.at for step in steps if step.fault in PAUSES]
    return PROMISES[mode].allowing(max(pauses, default=0.0))


@dataclass(slots=True)
class Series:
    """Runs of the drill on one cluster; a cluster that does not become healthy is replaced by a new one."""

    room: Lab
    image: str
    mode: str
    folder: Path
    stage: Stage | None = None

    def run(self, seed: int) -> str:
        """Run one seed; return the counterexample, or why the cluster is not healthy, or "" if nothing was lost."""
        self.stage = self.stage or staged(self.room, self.image, self.mode)
        drill = Drill(self.stage, seed, self.folder / str(seed))
        try:
            verdict = drill.run()
        except (AssertionError, ValueError, DockerException) as failure:  # ValueError: no primary, or two
            (drill.folder / "journals.txt").write_text(self.room.journals(), encoding="utf-8")
            self.clear()
            return f"the run did not end: {failure}"
        print(f"  {verdict.operations} operations, {dict(verdict.outcomes)}, permitted: {dict(verdict.permitted)}")
        if verdict.counterexample is None:
            return ""
        (drill.folder / "journals.txt").write_text(self.room.journals(), encoding="utf-8")
        self.clear()
        return f"{len(verdict.broken)} anomalies; the shortest:\n{verdict.counterexample}"

    def failures(self, seeds: Iterable[int]) -> dict[int, str]:
        """Run these seeds; return why each one failed that did."""
        return {seed: why for seed in seeds if (why := self.run(seed))}

    def clear(self) -> None:
        """Remove the cluster."""
        if self.stage is not None:
            self.room.remove((*self.stage.cluster.hosts, self.stage.client))
            self.stage = None


def report(failures: Mapping[int, str], release: str, mode: str) -> str:
    """Return each failed seed with its counterexample and the command that replays it."""
    return "\n\n".join(
        f"seed {seed}: {why}\nreplay: ./invoke drill --seed {seed} --runs 1 --release {release} --mode {mode}"
        for seed, why in failures.items()
    )
