"""Doubles of hosts, a cluster and its clients, for the parts of drill and bench that run on booted hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from tests.cluster.clients import Recording, Stage
from tests.drill.client import Specification
from tests.drill.operations import Operation
from tests.host import Host


@dataclass
class Container:
    """Records the calls of docker's container."""

    said: list[str]
    name: str

    def __getattr__(self, call: str) -> Any:
        return lambda *_, **__: self.said.append(f"{self.name}: container.{call}")


@dataclass
class HostDouble:
    """Records scripts, and answers those that print something."""

    name: str
    address: str
    said: list[str]
    rows: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def container(self) -> Container:
        return Container(self.said, self.name)

    def run(self, script: str, **_: Any) -> str:
        self.said.append(f"{self.name}: {script}")
        return f"{time.time() + 4}" if "pg_stat_replication" in script else "1000 2000"

    def psql(self, sql: str, **_: Any) -> str:
        self.said.append(f"{self.name}: {sql}")
        return self.rows

    def start(self) -> None:
        self.said.append(f"{self.name}: start")

    def booted(self) -> None:
        self.said.append(f"{self.name}: booted")


@dataclass
class ClusterDouble:
    """Three hosts, of which the first is the primary until it is lost."""

    hosts: tuple[HostDouble, ...]
    said: list[str]
    mode: str = "streaming_replication"

    def others(self, *hosts: HostDouble) -> tuple[HostDouble, ...]:
        return tuple(host for host in self.hosts if host not in hosts)

    def named(self, name: str) -> HostDouble:
        return next(host for host in self.hosts if host.name == name)

    def primary(self, host: HostDouble | None = None) -> HostDouble:
        return host or self.hosts[0]

    def writable(self) -> list[str]:
        return ["pg1"]

    def replayed(self) -> None:
        self.said.append("replayed")

    def ask(self, sql: str, **_: Any) -> str:
        self.said.append(f"ask: {sql.strip().splitlines()[0]}")
        return ""


@dataclass
class Play:
    """A stage of doubles. `history` is what its clients will have recorded."""

    said: list[str] = field(default_factory=list)
    history: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        hosts = [HostDouble(f"pg{number}", f"198.18.0.{number}", self.said) for number in (1, 2, 3)]
        self.hosts = tuple(hosts)
        client, virtual = HostDouble("client", "198.18.0.9", self.said), HostDouble("virtual", "198.18.0.8", self.said)
        self.stage = Stage(cast(Any, ClusterDouble(self.hosts, self.said)), cast(Host, client), cast(Host, virtual))

    @contextmanager
    def recording(self, host: Host, clients: Sequence[Specification]) -> Iterator[Recording]:
        """Replace the clients: each writes at once and after the block, unless there is a history."""
        made = RecordingDouble(host, [one.name for one in clients])
        began = time.time()
        try:
            yield made
        finally:
            written = [
                Operation(name, 1, moment, moment + 0.001, appends={name: number})
                for name in made.names
                for number, moment in enumerate((began, time.time() - 0.002), start=1)
            ]
            made.history = self.history or tuple(sorted(written, key=lambda one: one.began))


class RecordingDouble(Recording):
    """Clients that are always served."""

    def served(self, since: float, seconds: float = 0.0) -> bool:
        return since > 0 and seconds >= 0
