"""The start of pgpool-II: for the first time, after a failure, and with another program on its port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, primary, seen
from tests.unit.cluster.stage_node import OUT

from pgpool_cluster.decision.actions import Detach, Redirect, StartPgpool
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act, pgpool_service
from pgpool_cluster.transport.peers import Peers

START = StartPgpool("pg1")


class Service:
    """pgpool-II's unit. `owner` listens on its port: "pgpool", another program, or "" if none does."""

    def __init__(self) -> None:
        self.state = UnitState("active", "success", was_active=True, seconds=5)
        self.owner = "pgpool"
        self.words = ""
        self.failure: OperationError | None = None
        self.done: list[object] = []

    def control(self, verb: str, unit: str) -> None:
        assert unit == paths.PGPOOL_UNIT
        self.done.append((verb, "serve" if paths.SERVE.exists() else "no serve"))
        if self.failure is not None:
            raise self.failure

    def listens(self, number: int, *, anybody: bool = False) -> bool:
        assert number == CLUSTER.pool_port
        return bool(self.owner) if anybody else self.owner == "pgpool"

    def start(self, cluster: Cluster = CLUSTER) -> None:
        pgpool_service.start_pgpool(here(cluster), START)


def here(cluster: Cluster = CLUSTER) -> Here:
    return Here(cluster, cluster.named("pg1"), None, Peers({}), Record(system=1))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Service()
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    paths.SERVE.touch()
    monkeypatch.setattr(units, "state", lambda _: found.state)
    monkeypatch.setattr(units, "control", found.control)
    monkeypatch.setattr(units, "last_words", lambda _: found.words)
    monkeypatch.setattr(units, "being_upgraded", lambda _: False)
    monkeypatch.setattr(pgpool, "listens", found.listens)
    monkeypatch.setattr(pgpool, "write_status", lambda _, up: found.done.append(("status", list(up))))
    return found


def looked(monkeypatch: pytest.MonkeyPatch, facts: ClusterFacts) -> None:
    monkeypatch.setattr(Here, "look_at_all", lambda _: facts)


def test_the_first_start_permits_pgpool_to_run_and_restarts_one_with_another_configuration(service: Service) -> None:
    """Its package starts it before the cluster has a primary. Streaming replication needs no status file."""
    paths.SERVE.unlink()
    service.start()
    assert service.done == [("restart", "serve")]
    assert paths.SERVE.exists()


def test_a_pgpool_of_native_replication_starts_with_the_nodes_that_have_every_write(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would otherwise send reads to a node that missed writes."""
    looked(monkeypatch, seen(primary("pg1"), OUT, primary("pg3", led=0)))
    paths.SERVE.unlink()
    service.start(NATIVE)
    assert service.done == [("status", ["pg1"]), ("restart", "serve")]


def test_a_failed_first_start_leaves_pgpool_forbidden_to_run(service: Service) -> None:
    """Otherwise the next attempt would be an ordinary one and skip the status file."""
    paths.SERVE.unlink()
    service.failure = OperationError("pgpool2.service failed", hint="see its log")
    with pytest.raises(OperationError, match=r"pgpool2.service failed"):
        service.start()
    assert not paths.SERVE.exists()


@pytest.mark.parametrize("words", ["", "FATAL: could not open pool_hba.conf"])
def test_a_start_that_failed_before_is_repeated_and_its_reason_reported(service: Service, words: str) -> None:
    service.state = UnitState("failed", "exit-code", was_active=True, seconds=60)
    service.words = words
    if not words:
        service.start()
    else:
        with pytest.raises(OperationError) as caught:
            service.start()
        assert caught.value.message == f"pgpool-II does not start: {words}"
        assert caught.value.hint == "see journalctl -u pgpool2.service"
    assert service.done == [("start", "serve")]


def test_a_pgpool_whose_port_has_become_free_is_restarted(service: Service) -> None:
    """pgpool-II does not try again to listen."""
    service.owner = ""
    service.state = UnitState("active", "success", was_active=True, seconds=21)
    service.start()
    assert service.done == [("restart", "serve")]


@pytest.mark.parametrize(("owner", "seconds"), [("nginx", 60.0), ("nginx", 5.0), ("", 5.0)])
def test_a_pgpool_without_its_port_is_reported_with_the_command_that_shows_its_owner(
    service: Service, owner: str, seconds: float
) -> None:
    """A restart would not help while another program listens there, and one that just started may need a moment."""
    service.owner = owner
    service.state = UnitState("active", "success", was_active=True, seconds=seconds)
    with pytest.raises(OperationError, match="pgpool-II runs, but does not listen on port 9999") as caught:
        service.start()
    assert caught.value.hint.startswith("ss -ltnp 'sport = :9999' shows")
    assert service.done == []


@pytest.mark.parametrize(
    ("seconds", "words", "restarts"),
    [(6, "LOG:  exiting pgpool-II", True), (4, "LOG:  exiting pgpool-II", False), (6, "FATAL:  no leader", False)],
)
def test_only_a_pgpool_that_hangs_while_it_exits_is_restarted_during_its_start(
    service: Service, seconds: float, words: str, restarts: bool
) -> None:
    """4.6.1 can hang there."""
    service.state = UnitState("activating", "success", was_active=True, seconds=seconds)
    service.words = words
    with pytest.raises(OperationError, match=f"pgpool-II does not start: {words}"):
        service.start()
    assert service.done == ([("restart", "serve")] if restarts else [])


def test_a_pgpool_that_waits_for_a_leader_is_left_alone(service: Service) -> None:
    service.state = UnitState("activating", "success", was_active=True, seconds=100)
    service.start()
    assert service.done == []


def test_only_the_pgpool_of_this_node_is_redirected_to_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    redirected: list[str] = []
    monkeypatch.setattr(pgpool, "redirect", lambda _, node: redirected.append(node.name))
    act.perform(here(), Redirect("pg1", "pg3"))
    assert redirected == ["pg3"]


def test_a_detached_node_is_the_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    detached: list[str] = []
    monkeypatch.setattr(pgpool, "detach", lambda _, node: detached.append(node.name))
    pgpool_service.detach(here(), Detach("pg3", "it hangs"))
    assert detached == ["pg3"]
