"""What an agent does to pgpool-II, by what systemd and the servers say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster import act, copying, paths, pgpool, units
from pgpool_cluster.actions import Attach, StartPgpool
from pgpool_cluster.cluster_file import parse
from pgpool_cluster.errors import OperationError
from pgpool_cluster.key import Role
from pgpool_cluster.node import Here
from pgpool_cluster.peers import Peers
from pgpool_cluster.record import Record
from pgpool_cluster.units import UnitState

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is asked of systemd on a host whose pgpool-II has run before."""
    asked: list[str] = []
    (tmp_path / "serve").touch()
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    monkeypatch.setattr(units, "control", lambda verb, _: asked.append(verb))
    monkeypatch.setattr(units, "last_words", lambda _: "")
    monkeypatch.setattr(units, "being_upgraded", lambda _: False)
    monkeypatch.setattr(pgpool, "port", lambda _: 9999)
    return asked


def start(state: UnitState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an agent start pgpool-II that is in this state."""
    monkeypatch.setattr(units, "state", lambda _: state)
    here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=1))
    act.start_pgpool(here, StartPgpool("pg1"))


def test_what_failed_is_started(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    start(UnitState("failed", "exit-code", was_active=True), monkeypatch)
    assert started == ["start"]


def test_one_that_serves_and_does_not_answer_is_told(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgpool, "listens", lambda *_, **__: True)
    start(UnitState("active", "success", was_active=True, seconds=5), monkeypatch)  # it may just be coming up
    with pytest.raises(OperationError, match="pcp_node_info does not answer"):
        start(UnitState("active", "success", was_active=True, seconds=60), monkeypatch)
    assert started == []


def test_what_an_administrator_stopped_stays_so(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperationError, match="stopped by an administrator"):
        start(UnitState("inactive", "success", was_active=True), monkeypatch)
    assert started == []


@pytest.mark.parametrize("queued", [True, False], ids=["a restart", "an upgrade"])
def test_what_dpkg_or_systemd_is_about_to_start_is_left_to_them(
    started: list[str], queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of pgpool2 was taken for an administrator's stop, if the agent looked in between."""
    monkeypatch.setattr(units, "being_upgraded", lambda package: package == "pgpool2" and not queued)
    start(UnitState("inactive", "success", was_active=True, seconds=1, queued=queued), monkeypatch)
    assert started == []


def test_what_is_being_stopped_is_not_started(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes had ended, systemd was not done: an administrator's `systemctl stop pgpool2` was undone."""
    start(UnitState("deactivating", "success", was_active=True), monkeypatch)
    assert started == []


@pytest.mark.parametrize(("refusal", "attached"), [("", ["pg2"]), ("timeout expired", [])])
def test_a_server_that_takes_no_logins_is_not_attached(
    refusal: str, attached: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replication goes on, so it looks well; pgpool-II would wait in the login for ever."""
    told: list[str] = []
    monkeypatch.setattr(copying, "refusal", lambda _, role: refusal if role is Role.CHECK else "no password")
    monkeypatch.setattr(pgpool, "attach", lambda _, node: told.append(node.name))
    here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=1))
    if refusal:
        with pytest.raises(OperationError, match="pg2 lets nobody log in: timeout expired"):
            act.attach(here, Attach("pg2"))
    else:
        act.attach(here, Attach("pg2"))
    assert told == attached
