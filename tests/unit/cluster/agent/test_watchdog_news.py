"""The watchdog learns of a dead node from the agents, and of its return."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER, away, healthy, make_cluster, seen
from tests.unit.cluster.threads import AT_ONCE

from pgpool_cluster.agent import watchdog_news
from pgpool_cluster.agent.watchdog_news import WatchdogNews
from pgpool_cluster.definition.cluster import Cluster, Mode, Node, Service
from pgpool_cluster.ground import log
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import pgpool
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.transport.peers import Peers

Told = list[tuple[str, bool]]
PG1, PG2, PG3 = healthy()
NATIVE = make_cluster(Mode.NATIVE_REPLICATION, synchronous=0)
GONE = frozenset({"pg3"})
LOST = seen(replace(PG1, silent=GONE), replace(PG2, silent=GONE), away("pg3"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found: Told = []

    def tell(_: Cluster, node: Node, *, alive: bool) -> None:
        found.append((node.name, alive))

    monkeypatch.setattr(watchdog_news, "threading", AT_ONCE)
    monkeypatch.setattr(pgpool, "tell_watchdog", tell)
    return found


def news(cluster: Cluster = NATIVE) -> WatchdogNews:
    return WatchdogNews(Here(cluster, cluster.named("pg1"), None, Peers({}), Record()))


def test_a_node_that_most_nodes_find_silent_is_reported_once_and_its_return_too(told: Told) -> None:
    found = news()
    for facts in (seen(PG1, PG2, PG3), LOST, LOST, seen(PG1, PG2, PG3)):
        found.tend(facts)
    assert told == [("pg3", False), ("pg3", True)]


def test_a_node_that_only_this_one_finds_silent_is_not_reported(told: Told) -> None:
    news().tend(seen(replace(PG1, silent=GONE), PG2, PG3))
    assert told == []


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(CLUSTER, id="in streaming replication, there is no watchdog"),
        pytest.param(
            replace(NATIVE, nodes=tuple(replace(one, runs=frozenset({Service.POSTGRESQL})) for one in NATIVE.nodes)),
            id="this node runs no pgpool-II",
        ),
    ],
)
def test_other_clusters_report_nothing(told: Told, cluster: Cluster) -> None:
    news(cluster).tend(LOST)
    assert told == []


def test_a_watchdog_that_does_not_answer_is_logged_and_stops_nothing(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    del told
    said: list[str] = []

    def fail(*_: Any, **__: Any) -> None:
        raise ServerError("wd_cli: no watchdog", hint="systemctl status pgpool2")

    monkeypatch.setattr(pgpool, "tell_watchdog", fail)
    monkeypatch.setattr(log, "warning", said.append)
    news().tend(LOST)
    assert said == ["cannot report to the watchdog that pg3 is dead: wd_cli: no watchdog"]
