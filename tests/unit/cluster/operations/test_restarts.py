"""The restart of a server whose pending parameters need it, and the parameters that wait for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.nodes import CLUSTER, NATIVE, standby

from pgpool_cluster.decision.facts import matching
from pgpool_cluster.definition.cluster import Cluster, PostgresqlCluster
from pgpool_cluster.ground import log, waiting
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import restarts
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport.peers import Peers

UNIT = "postgresql@17-main.service"
SETTINGS = dict.fromkeys(matching.CONTROL, 100)


class Server:
    """A server that loads its configuration `late` queries after a reload. `done`: each step, in order."""

    def __init__(self) -> None:
        self.instance = Instance(PostgresqlCluster(17, "main"), 5432, Path("/srv"))
        self.late = 2
        self.reloaded = False
        self.loaded = 0
        self.pending = ["shared_buffers", "wal_level"]
        self.slots: list[tuple[str, bool]] = []
        self.prepared = 0
        self.configured = dict(SETTINGS)
        self.settings = {"wal_level": "replica", "max_replication_slots": "10", "max_prepared_transactions": "0"}
        self.fault = ""
        self.included = 1
        self.done: list[str] = []

    def query(self, sql: str, *_: object) -> list[tuple[Any, ...]]:
        if "pg_reload_conf" in sql:
            self.reloaded = True
            self.done.append("reload")
        if "pg_conf_load_time" in sql:
            self.late -= self.reloaded
            return [("now" if self.reloaded and self.late < 0 else "before",)]
        if "pg_file_settings WHERE sourcefile" in sql:
            return [(self.included,)]
        if "pending_restart" in sql:
            seen = not self.reloaded or self.late < 0
            return [(name,) for name in self.pending if seen]
        if "pg_replication_slots" in sql:
            return list(self.slots)
        return [(self.prepared,)] if "pg_prepared_xacts" in sql else []

    def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Server()
    monkeypatch.setattr(Here, "query", lambda _, *words: found.query(*words))
    monkeypatch.setattr(Here, "look", lambda _: replace(standby("pg1", "pg2"), settings=SETTINGS))
    monkeypatch.setattr(waiting, "time", Clock())
    monkeypatch.setattr(log, "info", lambda text: found.done.append(f"log: {text}"))
    monkeypatch.setattr(pg, "configured", lambda _: found.configured)
    monkeypatch.setattr(pg, "setting", lambda _, name: found.settings[name])
    monkeypatch.setattr(pg, "fault", lambda _: found.fault)
    monkeypatch.setattr(pg, "start", lambda _: found.done.append("start"))
    return found


def here(server: Server, monkeypatch: pytest.MonkeyPatch, cluster: Cluster = CLUSTER) -> Here:
    database: Any = server
    found = Here(cluster, cluster.named("pg1"), database, Peers({}), Record(system=1))

    def control(verb: str, unit: str) -> None:
        server.done.append(f"{verb} {unit}, {'permitted' if found.under_way.starting else 'not permitted'}")

    monkeypatch.setattr(units, "control", control)
    return found


def test_a_server_is_restarted_once_for_all_pending_parameters(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent permits the start of its own unit, drops the broken connection, and waits until the server answers."""
    node = here(server, monkeypatch)
    restarts.restart_if_pending(node)
    assert server.done == [
        "reload",
        "log: restarting PostgreSQL 17/main once, for shared_buffers, wal_level",
        f"restart {UNIT}, permitted",
        "close",
        "start",
    ]
    assert not node.under_way.starting


def test_a_server_without_pending_parameters_is_only_reloaded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pending = []
    restarts.restart_if_pending(here(server, monkeypatch))
    assert server.done == ["reload"]


def test_a_failed_restart_no_longer_permits_a_start(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    node = here(server, monkeypatch)

    def refuse(*_: object) -> None:
        raise OperationError(f"{UNIT} failed", hint="see its log")

    monkeypatch.setattr(units, "control", refuse)
    with pytest.raises(OperationError, match="failed"):
        restarts.restart_if_pending(node)
    assert not node.under_way.starting
    assert "start" not in server.done


@pytest.mark.parametrize(
    ("broken", "reason", "hint"),
    [({"fault": 'invalid value for parameter "work_mem"'}, 'invalid value for parameter "work_mem"',
      "correct that file; then pgpoolctl apply"),
     ({"slots": [("debezium", True)]}, "wal_level: replication slot debezium needs logical, and it would be replica",
      "wal_level: logical"),
     ({"slots": [(f"s{number}", False) for number in range(11)]}, "11 replication slots exist, and it would be 10",
      "max_replication_slots: 11"),
     ({"prepared": 3}, "3 prepared transactions exist, and it would be 0", "max_prepared_transactions: 3")],
    ids=["a fault", "a logical slot", "slots", "prepared transactions"],
)  # fmt: skip
def test_a_server_that_would_not_start_again_keeps_serving(
    server: Server, broken: dict[str, Any], reason: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in broken.items():
        setattr(server, name, value)
    with pytest.raises(OperationError) as caught:
        restarts.restart_if_pending(here(server, monkeypatch))
    assert "17/main is not restarted for shared_buffers, wal_level, as it would not start" in caught.value.message
    assert reason in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint.endswith("; then pgpoolctl apply")
    assert server.done == ["reload"]


def test_the_waiting_parameters_include_those_that_the_next_reload_will_mark(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.configured["max_connections"] = 200
    found = restarts.waiting(here(server, monkeypatch))
    assert found
    assert str(found) == (
        f"PostgreSQL needs a restart for max_connections (100 to 200), shared_buffers, wal_level: "
        f"pgpoolctl restart --pending on one node; by hand on each node: systemctl restart {UNIT}; "
        "max_connections grows: the standbys first, then the primary; "
        "otherwise they stop replaying"
    )


def test_without_standbys_the_servers_restart_in_any_order(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.configured["max_connections"] = 50
    found = restarts.waiting(here(server, monkeypatch, NATIVE))
    assert found.fix == f"systemctl restart {UNIT}; node by node"


def test_a_server_with_its_configured_values_waits_for_no_restart(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files with errors yield no values (pg.configured), and nothing to compare."""
    server.pending = []
    assert not restarts.waiting(here(server, monkeypatch))
    server.configured = {}
    assert not restarts.waiting(here(server, monkeypatch))


@pytest.mark.parametrize("included", [0, 12])
def test_a_server_that_does_not_read_the_clusters_file_is_found(
    server: Server, included: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.included = included
    assert restarts.includes_drop_in(here(server, monkeypatch)) is (included > 0)


def test_a_node_reports_what_its_restart_would_change_and_what_would_prevent_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.configured["max_connections"] = 200
    node = here(server, monkeypatch)
    found = restarts.pending(node)
    assert (found.parameters, found.configured) == (
        ("max_connections", "shared_buffers", "wal_level"),
        server.configured,
    )
    assert (found.fault, found.fix) == ("", "")
    server.fault = "unrecognized parameter"
    found = restarts.pending(node)
    assert (found.fault, found.fix) == ("unrecognized parameter", "correct that file")
