"""The services that read a changed file reload it, and no other service is disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.configuration import reloading
from pgpool_cluster.configuration.rendering import rendered_paths
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.programs import ProgramError
from pgpool_cluster.machine import pgpool, units
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


class Services:
    """The services of a machine, all `active`; `asked`: the requests to systemd. `another`: as in test_node_files."""

    def __init__(self) -> None:
        self.active = "active"
        self.another = False
        self.asked: list[tuple[str, ...]] = []

    def reload(self, *changed: str, renewed: bool = False) -> list[tuple[str, ...]]:
        reloading.reload(changed, renewed=renewed)
        return self.asked


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Services()
    monkeypatch.setattr(paths, "SERVE", tmp_path / "serve")
    paths.SERVE.touch()
    monkeypatch.setattr(pgpool, "of_another_key", lambda _: found.another)
    monkeypatch.setattr(units, "booted", lambda: True)
    monkeypatch.setattr(units, "state", lambda _: units.UnitState(found.active, "success", was_active=True))
    monkeypatch.setattr(units, "ask", lambda *words: found.asked.append(words))
    monkeypatch.setattr(units, "reload", lambda unit: found.asked.append(("reload", unit)))
    return found


CONF = f"{paths.FOLDER}/pgpool.conf"
UNIT_FILE = rendered_paths.UNIT_FILE


def test_pgpool_reloads_its_own_files_only(services: Services) -> None:
    assert services.reload(f"{paths.FOLDER}/roles.sql", "/var/lib/postgresql/.pgpass") == []
    assert services.reload(CONF, f"{paths.FOLDER}/roles.sql") == [("reload", paths.PGPOOL_UNIT)]


def test_pgpool_is_left_alone_before_there_is_a_primary(services: Services) -> None:
    paths.SERVE.unlink()
    assert services.reload(CONF) == []


def test_a_pgpool_with_the_previous_key_gets_no_file_with_the_new_one(services: Services) -> None:
    """With new passwords and the old .pgpoolkey, it would reject every client until it restarts."""
    services.another = True
    assert services.reload(CONF) == []


@pytest.mark.parametrize(
    ("active", "asked"),
    [("active", [("daemon-reload",), ("--no-block", "restart", paths.PGPOOL_UNIT)]),
     ("activating", [("daemon-reload",)]), ("inactive", [("daemon-reload",)])],
)  # fmt: skip
def test_a_new_unit_file_is_read_before_a_running_pgpool_restarts_without_a_wait(
    services: Services, active: str, asked: list[tuple[str, ...]]
) -> None:
    """The restart ends only when the watchdog has a leader, and another node may be applying, too."""
    services.active = active
    assert services.reload(UNIT_FILE, CONF) == asked


@pytest.mark.parametrize("active", ["active", "inactive"])
def test_an_agent_that_has_to_see_home_is_restarted_if_it_runs(services: Services, active: str) -> None:
    services.active = active
    restart = [("--no-block", "restart", paths.UNIT)] if active == "active" else []
    assert services.reload(rendered_paths.DROP_INS[0]) == [("daemon-reload",), *restart]


@pytest.mark.parametrize("path", [str(rendered_paths.SSHD_CONF), f"{paths.FOLDER}/ssh_host_ed25519_key-cert.pub"])
def test_sshd_reads_its_new_files(services: Services, path: str) -> None:
    assert ("try-reload-or-restart", "ssh.service") in services.reload(path)


def test_the_firewall_gets_its_new_rules_first(services: Services) -> None:
    """The reloaded pgpool-II may already have the new nodes."""
    assert services.reload(CONF, str(paths.PEERS_NFT))[0] == ("reload-or-restart", paths.FIREWALL_UNIT)


def test_a_server_that_does_not_run_yet_stops_no_reload(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the files when it starts."""

    def refuse(words: list[str]) -> str:
        raise ProgramError(words[0], "Error: 17 main is not running")

    services.active = "activating"
    monkeypatch.setattr(programs, "run", refuse)
    asked = services.reload("/etc/postgresql/17/main/pg_hba.conf", "/etc/ssh/sshd_config.d/x.conf", renewed=True)
    assert asked == [("try-reload-or-restart", "ssh.service")]
