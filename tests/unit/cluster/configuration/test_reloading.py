"""The services that read a changed file reload it, and no other service is disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster.configuration import reloading, rendered_paths
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.machine import units
from pgpool_cluster.machine.memory import Applied


def test_nothing_is_requested_from_a_system_without_systemd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A chroot or an image build may not even have systemctl."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(units, "booted", lambda: False)
    reloading.reload([rendered_paths.UNIT_FILE, "/etc/ssh/sshd_config.d/x.conf"], renewed=True)
    units.ask("stop", "pgpool2.service")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(units, "booted", lambda: True)
    units.ask("stop", "pgpool2.service")
    assert "systemctl stop pgpool2.service: this program is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "told"), [([str(paths.HOSTS)], 1), (["/etc/pgpool2/cluster/pcp.conf"], 0)])
def test_the_agent_is_notified_of_changed_addresses(
    changed: list[str], told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    monkeypatch.setattr(units, "booted", lambda: True)
    monkeypatch.setattr(units, "state", lambda _: units.UnitState("active", "success", was_active=True))
    monkeypatch.setattr(units, "ask", lambda *words: asked.append(words))
    reloading.reload(changed, renewed=False)
    assert len([words for words in asked if "--signal=HUP" in words]) == told


def test_the_server_reloads_a_new_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is beside pgpool-II's files. PostgreSQL used to present the old one after a key change, until a restart."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    monkeypatch.setattr(units, "booted", lambda: True)
    monkeypatch.setattr(units, "state", lambda _: units.UnitState("active", "success", was_active=True))
    monkeypatch.setattr(units, "ask", lambda *words: asked.append(words))
    laid = {"/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf": "x", "/etc/pgpool2/cluster/pcp.conf": "y"}
    monkeypatch.setattr(Applied, "load", lambda: Applied(laid))
    reloading.reload([str(paths.SERVER_CERTIFICATE)], renewed=False)
    assert asked == [("reload", "postgresql@17-main.service")]


@pytest.mark.parametrize(
    ("active", "reloads"),
    [
        ("active", [("reload", "postgresql@17-main.service")]),
        ("activating", [("/usr/bin/pg_ctlcluster", "--skip-systemctl-redirect", "17-main", "reload")]),
        ("inactive", []),
    ],
)
def test_a_server_that_is_still_starting_for_systemd_is_reloaded(
    active: str, reloads: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied standby serves before pg_ctlcluster notices; files written in between used to be ignored."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    monkeypatch.setattr(units, "booted", lambda: True)
    monkeypatch.setattr(units, "state", lambda _: units.UnitState(active, "success", was_active=True))
    monkeypatch.setattr(units, "ask", lambda *words: asked.append(words))
    monkeypatch.setattr(programs, "run", lambda words: asked.append(tuple(words)))
    conf = "/etc/postgresql/17/main"
    reloading.reload([f"{conf}/conf.d/pgpool2-cluster.conf", f"{conf}/pg_hba.conf"], renewed=False)
    assert asked == reloads
