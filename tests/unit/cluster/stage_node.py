"""A node in a recovery in two stages: its server, its requests, and facts that change from one round to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.nodes import NATIVE, pgpool, primary, seen
from tests.unit.cluster.threads import AT_ONCE

from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.ground import waiting
from pgpool_cluster.ground.errors import ClusterError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node import stages
from pgpool_cluster.node.node import Here
from pgpool_cluster.recovery import main_node, sessions, target, two_stages
from pgpool_cluster.transport.peers import Progress
from pgpool_cluster.transport.protocol import CancelActiveAnswer

OUT = NodeFacts("pg3", member=True, term=1, led=1, system=7000)
"""pg3 is down, and pgpool-II has given it up."""
SERVING = seen(replace(primary("pg1"), pgpool=pgpool("pg3")), primary("pg2"), OUT)
ALL_IN = seen(replace(primary("pg1"), pgpool=pgpool()), primary("pg2"), primary("pg3"))


class Server:
    """PostgreSQL of a node. `rows`: its answers, by a part of the SQL; an exception is raised."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.values: list[Sequence[object]] = []
        self.rows: dict[str, Any] = {"pg_cancel_backend": [(0,)]}

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self.sent.append(sql)
        self.values.append(values)
        found: Any = next((rows for part, rows in self.rows.items() if part in sql), [])
        if isinstance(found, Exception):
            raise found
        return list(found() if callable(found) else found)

    @contextmanager
    def session(self, database: str, **_: object) -> Iterator[Any]:
        rows: list[tuple[Any, ...]] = []

        def execute(sql: str) -> None:
            rows[:] = self.query(f"{database}: {sql}")

        yield SimpleNamespace(execute=execute, fetchall=lambda: list(rows))


class StageNode:
    """A node with a clock, a server, and facts that change from one round to the next.

    `asked`: the requests to other nodes, and to pgpool-II's nodes. `answers`: what they return or raise, by type.
    """

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, cluster: Cluster = NATIVE) -> None:
        self.clock, self.server = Clock(), Server()
        self.rounds: list[ClusterFacts] = [SERVING]
        self.asked: list[tuple[str, object]] = []
        self.answers: dict[type[object], Any] = {}
        self.said: list[str] = []
        self.joined: list[float | None] = []
        """The time limits with which the watchdog's members were awaited."""
        self.outsider: ClusterError | None = None
        database: Any = self.server
        peers: Any = SimpleNamespace(ask=self._ask, ask_all=self._ask_all)
        record = Record(system=7000, term=1, led=1)
        self.here = Here(cluster, cluster.named(name), database, peers, record)
        for module in (waiting, sessions, stages, target, two_stages):
            monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(main_node, "threading", AT_ONCE)
        for module in (main_node, target, two_stages):
            monkeypatch.setattr(module, "await_joined", self._await_joined)
        monkeypatch.setattr(Record, "save", lambda *_: None)
        monkeypatch.setattr(Here, "look_at_all", lambda _, **__: self._facts())
        monkeypatch.setattr(Here, "look", lambda here: self.rounds[0].of(here.me.name))
        monkeypatch.setattr(Here, "on", lambda _, name, request, **__: self._ask(name, request))

    def _facts(self) -> ClusterFacts:
        return self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]

    def _ask(self, name: str, request: object, **_: object) -> Any:
        self.asked.append((name, request))
        found = self.answers.get(type(request))
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found

    def _ask_all(self, request: object, **_: object) -> dict[str, CancelActiveAnswer]:
        return dict.fromkeys(("pg2", "pg3"), self._ask("all", request))

    def _await_joined(self, _: Here, progress: Progress, *, seconds: float | None = None) -> None:
        del progress
        self.joined.append(seconds)
        if self.outsider is not None:
            raise self.outsider

    def say(self, text: str) -> None:
        self.said.append(text)


def draining(node: StageNode) -> float:
    """Let a second stage wait for the end of sessions on this main node, and return its number."""
    drain = node.here.under_way.drain
    with drain.copying("000000010000000000000003"):
        pass
    return drain.begin()
