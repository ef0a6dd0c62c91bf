"""Only pgpool-IIs that have joined the watchdog's leader hold clients back during a second stage."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pgpool_cluster.decision.facts.facts import Standing, WatchdogState
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import ports
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.recovery import main_node, watchdog
from pgpool_cluster.transport import wire
from pgpool_cluster.transport.peers import Peers

NODES = "mode: native_replication\nnodes: {pg1: 127.0.0.1, pg2: 127.0.0.2, pg3: 127.0.0.3}"
CLUSTER: Cluster = parse(NODES, "cluster.yml", "pg1")
LEADER = Standing(True, WatchdogState.LEADER, frozenset({"pg2", "pg3"}))
ALONE = Standing(True, WatchdogState.LEADER, frozenset({"pg3"}))
STANDBY = Standing(True, WatchdogState.STANDBY)
JOINING = Standing(True, WatchdogState.OTHER)
STARTING = Standing(False, WatchdogState.OTHER)
INFO = """Watchdog Cluster Information
Total Nodes              : 3
Quorum state             : QUORUM EXIST
Leader Host Name         : 127.0.0.1

Watchdog Node Information
Node Name         : 127.0.0.1:9999 Linux pg1
Host Name         : 127.0.0.1
Status            : 4
Status Name       : LEADER

Node Name         : 127.0.0.2:9999 Linux pg2
Host Name         : 127.0.0.2
Status            : 7
Status Name       : STANDBY

Node Name         : 127.0.0.3:9999 Linux pg3
Host Name         : 127.0.0.3
Status            : 8
Status Name       : LOST
"""


@pytest.mark.parametrize(
    ("found", "serving", "expected"),
    [
        ({"pg1": LEADER, "pg2": STANDBY, "pg3": STANDBY}, (), []),
        ({"pg1": LEADER, "pg2": JOINING, "pg3": STANDBY}, (), []),  # the leader still notifies it of the stage
        ({"pg1": ALONE, "pg2": JOINING, "pg3": STANDBY}, (), ["pg2"]),
        (
            {"pg1": ALONE, "pg2": STANDBY, "pg3": STANDBY},
            (),
            ["pg2"],
        ),  # it has not noticed yet that the leader has lost it
        ({"pg1": ALONE, "pg2": STARTING, "pg3": STANDBY}, (), []),
        ({"pg1": ALONE, "pg3": STANDBY}, ("pg2",), ["pg2"]),
        ({"pg1": LEADER, "pg3": STANDBY}, ("pg2",), []),
        ({"pg1": ALONE, "pg2": ALONE, "pg3": STANDBY}, (), ["pg1", "pg2"]),
        ({"pg2": STANDBY, "pg3": JOINING}, (), ["pg3"]),
        ({"pg2": STANDBY, "pg3": STANDBY}, ("pg1",), ["pg1"]),
        ({}, (), []),
    ],
)
def test_a_serving_pgpool_that_the_leader_does_not_know_is_outside(
    found: dict[str, Standing], serving: tuple[str, ...], expected: list[str]
) -> None:
    assert watchdog.outside(found, serving) == expected


def test_the_leaders_standbys_are_read_from_pcp_watchdog_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgpool, "pcp", lambda *_, **__: INFO)
    monkeypatch.setattr(pgpool, "listens", lambda _: True)
    found = pgpool.standing(CLUSTER)
    assert found == Standing(True, WatchdogState.LEADER, frozenset({"pg2"}))
    assert wire.read(Standing, wire.fields(found), "standing") == found


def test_a_pgpool_that_serves_but_answers_no_pcp_does_not_count_as_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> str:
        raise OperationError("pcp_watchdog_info: timed out", hint="")

    monkeypatch.setattr(pgpool, "pcp", silent)
    monkeypatch.setattr(pgpool, "listens", lambda _: True)
    assert pgpool.standing(CLUSTER) == JOINING


@pytest.fixture
def pg1(monkeypatch: pytest.MonkeyPatch) -> Here:
    """The main node, whose pgpool-II leads. The other pgpool-IIs are standbys."""
    here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=1, term=2, led=2))
    answers(LEADER, {"pg2": STANDBY, "pg3": STANDBY}, monkeypatch)
    return here


def answers(mine: Standing, others: dict[str, Standing], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the nodes answer with these standings."""
    monkeypatch.setattr(pgpool, "standing", lambda _: mine)
    monkeypatch.setattr(Peers, "ask_some", lambda *_, **__: dict(others))


def test_a_second_stage_begins_if_every_pgpool_holds_its_clients_back(
    pg1: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(main_node, "align_sequences", lambda _: asked.append("sequences"))
    monkeypatch.setattr(Here, "query", lambda *_: [("0/1",)])
    monkeypatch.setattr(Peers, "ask", lambda _, __, request, **___: asked.append(request.do))
    main_node.second_stage(pg1, "pg3", lambda _: None)
    assert asked == ["sequences", "note", "take-up"]


def test_a_second_stage_that_clients_could_bypass_is_aborted(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target receives the reason, because the requesting program waits for the target's answer."""
    asked: list[dict[str, Any]] = []
    answers(ALONE, {"pg2": JOINING, "pg3": STANDBY}, monkeypatch)
    monkeypatch.setattr(main_node, "_tell_why", lambda _, name, why: asked.append({"name": name, "why": why}))
    with pytest.raises(OperationError, match="pgpool-II of pg2 serves clients, but has not joined the others"):
        main_node.second_stage(pg1, "pg3", lambda _: None)
    assert [one["name"] for one in asked] == ["pg3"]


def test_a_silent_node_is_outside_if_its_pgpool_accepts_connections(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(ALONE, {"pg3": STANDBY}, monkeypatch)
    with socket.create_server(("127.0.0.2", 0)) as server:
        monkeypatch.setattr(ports, "POOL", server.getsockname()[1])
        assert watchdog.outsiders(pg1) == ["pg2"]
    assert watchdog.outsiders(pg1) == []


def test_a_joining_pgpool_is_awaited_and_reported_once(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tries = iter([ALONE] * 3 + [LEADER])
    monkeypatch.setattr(pgpool, "standing", lambda _: next(tries))
    monkeypatch.setattr("time.sleep", lambda _: None)
    watchdog.await_joined(pg1, said.append)
    (line,) = said
    assert line.startswith("pgpool-II of pg2 serves clients, but has not joined the others: waiting for it to join; ")


def test_a_pgpool_that_never_joins_is_awaited_for_30_seconds(pg1: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200))
    answers(ALONE, {"pg2": JOINING, "pg3": STANDBY}, monkeypatch)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with pytest.raises(OperationError, match="pg2 serves clients") as raised:
        watchdog.await_joined(pg1, lambda _: None)
    assert "systemctl restart pgpool2" in raised.value.hint
    assert next(clock) in range(130, 135)


def test_a_single_pgpool_is_never_outside() -> None:
    one: Cluster = parse("mode: native_replication\nnodes:\n  pg1: {address: 10.0.0.1}\n  pg2: {address: 10.0.0.2, "
                         "runs: [postgresql]}", "cluster.yml", "pg1")  # fmt: skip
    here = Here(one, one.named("pg1"), None, Peers({}), Record(system=1))
    assert watchdog.outsiders(here) == []
