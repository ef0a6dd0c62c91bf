"""An agent's actions on pgpool-II, which depend on the state of its unit and of the servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster.copying import copy_source
from pgpool_cluster.decision.actions import Attach, StartPgpool, StopPgpool
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import pgpool_service
from pgpool_cluster.transport.peers import Peers

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Requests to systemd on a host whose pgpool-II has run before."""
    asked: list[str] = []
    (tmp_path / "serve").touch()
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    monkeypatch.setattr(units, "control", lambda verb, _: asked.append(verb))
    monkeypatch.setattr(units, "last_words", lambda _: "")
    monkeypatch.setattr(units, "being_upgraded", lambda _: False)
    monkeypatch.setattr(pgpool, "port", lambda _: 9999)
    return asked


def start(state: UnitState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an agent start pgpool-II, whose unit is in this state."""
    monkeypatch.setattr(units, "state", lambda _: state)
    here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=1))
    pgpool_service.start_pgpool(here, StartPgpool("pg1"))


def test_a_pgpool_that_the_agent_has_stopped_is_started_again(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the marker, it would count as stopped by an administrator."""
    here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=1))
    pgpool_service.stop_pgpool(here, StopPgpool("pg1", "it is alone"))
    assert (started, paths.SERVE.exists()) == (["stop"], False)
    start(UnitState("inactive", "success", was_active=True), monkeypatch)
    assert (started, paths.SERVE.exists()) == (["stop", "restart"], True)


def test_a_failed_unit_is_started(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start(UnitState("failed", "exit-code", was_active=True), monkeypatch)
    assert started == ["start"]


def test_a_pgpool_that_serves_but_answers_no_pcp_is_reported(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgpool, "listens", lambda *_, **__: True)
    start(UnitState("active", "success", was_active=True, seconds=5), monkeypatch)  # it may still be starting
    with pytest.raises(OperationError, match="pcp_node_info does not answer"):
        start(UnitState("active", "success", was_active=True, seconds=60), monkeypatch)
    assert started == []


def test_a_unit_that_an_administrator_stopped_stays_stopped(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OperationError, match="stopped by an administrator"):
        start(UnitState("inactive", "success", was_active=True), monkeypatch)
    assert started == []


@pytest.mark.parametrize("queued", [True, False], ids=["a restart", "an upgrade"])
def test_a_unit_that_dpkg_or_systemd_is_about_to_start_is_left_to_them(
    started: list[str], queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of pgpool2 used to be mistaken for an administrator's stop if the agent checked during it."""
    monkeypatch.setattr(units, "being_upgraded", lambda package: package == "pgpool2" and not queued)
    start(UnitState("inactive", "success", was_active=True, seconds=1, queued=queued), monkeypatch)
    assert started == []


def test_a_stopping_unit_is_not_started(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If only its processes had ended, the agent used to undo an administrator's `systemctl stop pgpool2`."""
    start(UnitState("deactivating", "success", was_active=True), monkeypatch)
    assert started == []


@pytest.mark.parametrize(("refusal", "attached"), [("", ["pg2"]), ("timeout expired", [])])
def test_a_server_that_accepts_no_logins_is_not_attached(
    refusal: str, attached: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replication continues, so it seems healthy, but pgpool-II would wait for its login without a time limit."""
    told: list[str] = []
    monkeypatch.setattr(copy_source, "refusal", lambda _, role: refusal if role is Role.CHECK else "no password")
    monkeypatch.setattr(pgpool, "attach", lambda _, node: told.append(node.name))
    here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=1))
    if refusal:
        with pytest.raises(OperationError, match="pg2 rejects every login: timeout expired"):
            pgpool_service.attach(here, Attach("pg2"))
    else:
        pgpool_service.attach(here, Attach("pg2"))
    assert told == attached
