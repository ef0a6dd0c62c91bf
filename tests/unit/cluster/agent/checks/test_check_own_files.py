"""Faults of files that only root can read, each found by its own check."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.checked import CLUSTER
from tests.unit.cluster.clock import Clock

from pgpool_cluster.agent.checks import check_own_files
from pgpool_cluster.configuration import changes, key_file
from pgpool_cluster.configuration.rehearsal import doors
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.definition import key
from pgpool_cluster.ground import paths, waiting
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.errors import ServerError, UsageError
from pgpool_cluster.ground.fault import Fault
from pgpool_cluster.machine import server, unit_files
from pgpool_cluster.machine.network import firewall


class KeyFile:
    """A cluster.key of this owner and mode."""

    def __init__(self, uid: int = 0, mode: int = 0o600) -> None:
        self.uid, self.mode = uid, mode

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_uid=self.uid, st_mode=stat.S_IFREG | self.mode)

    def __str__(self) -> str:
        return "/etc/pgpool2/cluster.key"


class Root:
    """A machine whose files are in order, as root sees them."""

    def __init__(self) -> None:
        self.planned: changes.PlannedChanges | UsageError = changes.PlannedChanges((), Users(), ())
        self.faults: list[Fault] | ServerError = []
        self.unfiltered = False
        self.applies = False
        """Whether an apply that the agent has requested is running."""
        self.key = key.generate()
        self.clock = Clock(0.0)

    def plan(self) -> changes.PlannedChanges:
        if isinstance(self.planned, UsageError):
            raise self.planned
        return self.planned

    def doors(self, *_: object) -> list[Fault]:
        if isinstance(self.faults, ServerError):
            raise self.faults
        return self.faults

    def failed(self) -> list[Check]:
        return [check for check in check_own_files.of_files() if not check.ok]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Root:
    found = Root()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(server, "host_name", lambda: "pg1")
    monkeypatch.setattr(server, "this_node", lambda: (CLUSTER, CLUSTER.named("pg1")))
    monkeypatch.setattr(changes, "plan", found.plan)
    monkeypatch.setattr(doors, "faults", found.doors)
    monkeypatch.setattr(firewall, "missing", lambda: found.unfiltered)
    monkeypatch.setattr(unit_files, "is_running", lambda _: found.applies)
    monkeypatch.setattr(key_file, "text", lambda: f"{found.key}\n")
    monkeypatch.setattr(paths, "CLUSTER_KEY", KeyFile())
    monkeypatch.setattr(waiting, "time", found.clock)
    return found


def change(name: str, *, edited: bool = False) -> changes.Change:
    file: Any = SimpleNamespace(path=name)
    return changes.Change(file, b"old", b"new", edited)


def test_files_that_are_in_order_fail_no_check(root: Root) -> None:
    assert root.failed() == []
    assert [check.what for check in check_own_files.of_files()] == [
        "the applied configuration matches cluster.yml and cluster.key",
        "only root can read /etc/pgpool2/cluster.key",
        "/etc/pgpool2/cluster.key cannot be guessed",
        "sshd accepts logins of the other nodes as postgres",
        "watchdog, heartbeat and pcp ports are closed to other hosts",
    ]


def test_a_user_other_than_root_does_not_check_the_files(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.unfiltered = True
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert list(check_own_files.of_files()) == []


def test_a_cluster_yml_that_cannot_be_rendered_is_the_only_fault(root: Root) -> None:
    root.planned = UsageError("cluster.yml:3: a tab", hint="take it out")
    (found,) = check_own_files.of_files()
    assert (found.ok, found.why, found.fix) == (False, "cluster.yml:3: a tab", "take it out")


def test_an_apply_that_the_agent_has_requested_is_awaited(root: Root) -> None:
    """Found by the matrix: seconds after the installation, the agent applies that all certificates are verified."""
    laid = root.planned
    root.planned = changes.PlannedChanges((), Users(), (change("/etc/a"),))
    root.clock.during = lambda: setattr(root, "planned", laid) if root.clock.now >= 2 else None
    assert root.failed() == []
    assert root.clock.now == 2


@pytest.mark.parametrize(("applies", "seconds"), [(True, 5), (False, 2)])
def test_a_slow_apply_is_awaited_while_it_runs(applies: bool, seconds: float, root: Root) -> None:
    laid = root.planned
    root.applies, root.planned = applies, changes.PlannedChanges((), Users(), (change("/etc/a"),))
    root.clock.during = lambda: setattr(root, "planned", laid) if root.clock.now >= 5 else None
    assert bool(root.failed()) is not applies
    assert root.clock.now == seconds


def test_files_that_an_administrator_edited_are_reported_at_once(root: Root) -> None:
    root.planned = changes.PlannedChanges((), Users(), (change("/etc/c", edited=True),))
    list(check_own_files.of_files())
    assert root.clock.now == 0


def test_files_that_differ_are_named(root: Root) -> None:
    root.planned = changes.PlannedChanges(
        (), Users(), (change("/etc/a"), change("/etc/b"), change("/etc/c", edited=True))
    )
    (found,) = root.failed()
    assert (found.why, found.fix) == ("/etc/a, /etc/b differ", "pgpoolctl apply")


def test_a_file_that_an_administrator_has_edited_has_a_check_of_its_own(root: Root) -> None:
    root.planned = changes.PlannedChanges((), Users(), (), edited=(Path("/etc/pgpool2/pgpool.conf"),))
    (found,) = root.failed()
    assert (found.what, found.why) == ("/etc/pgpool2/pgpool.conf is as rendered", "edited by hand")
    assert found.fix == "put the change under pgpool: in cluster.yml; rm /etc/pgpool2/pgpool.conf; pgpoolctl apply"


def test_a_change_of_postgresqls_parameters_belongs_under_its_own_key(root: Root) -> None:
    root.planned = changes.PlannedChanges((), Users(), (), edited=(Path("/etc/postgresql/pgpool2-cluster.conf"),))
    (found,) = root.failed()
    assert found.fix.startswith("put the change under postgresql_conf: in cluster.yml; rm ")


def test_a_key_that_is_not_in_use_is_the_only_fault_of_the_files(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rendered file would differ with another key, and `pgpoolctl apply` would be the wrong fix."""
    monkeypatch.setattr(paths, "laid_fingerprint", lambda: "0123456789abcdef")
    root.planned = changes.PlannedChanges((), Users(), (change("/etc/a"),))
    (found,) = root.failed()
    assert found.what == "the applied configuration matches cluster.yml and cluster.key"
    assert found.why == "/etc/pgpool2/cluster.key is not the key in use on this node"
    assert found.fix.startswith("copy /etc/pgpool2/cluster.key from another node")
    monkeypatch.setattr(paths, "laid_fingerprint", lambda: key.parse(root.key, "k").fingerprint)
    assert [check.why for check in root.failed()] == ["/etc/a differ"]


def test_a_file_that_cannot_be_written_is_reported_with_its_reason(root: Root) -> None:
    root.planned = changes.PlannedChanges((), Users(), (), refused=(ServerError("/etc/a is a FIFO", hint="rm /etc/a"),))
    (found,) = root.failed()
    assert (found.why, found.fix) == ("/etc/a is a FIFO", "rm /etc/a")
    assert not [check for check in check_own_files.of_files() if check.ok and "matches cluster.yml" in check.what]


@pytest.mark.parametrize(("uid", "mode"), [(1, 0o600), (0, 0o640), (0, 0o604)])
def test_a_cluster_key_that_other_users_can_read_is_reported(
    uid: int, mode: int, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "CLUSTER_KEY", KeyFile(uid, mode))
    (found,) = root.failed()
    assert (found.what, found.why) == ("only root can read /etc/pgpool2/cluster.key", f"mode {mode:04o}")
    assert found.fix.startswith("chown root: /etc/pgpool2/cluster.key; chmod 0600")


def test_a_cluster_key_in_the_format_of_older_packages_is_reported(root: Root) -> None:
    root.key = " ".join(["word"] * 10)
    (found,) = root.failed()
    assert found.what == "/etc/pgpool2/cluster.key cannot be guessed"
    assert found.fix.startswith("pgpoolctl key generate")


def test_each_fault_of_sshd_has_its_own_fix(root: Root) -> None:
    root.faults = [Fault("sshd has forcecommand x", "ForceCommand none"), Fault("the shell is /bin/false", "chsh")]
    failed = root.failed()
    assert {check.what for check in failed} == {"sshd accepts logins of the other nodes as postgres"}
    assert [(check.why, check.fix) for check in failed] == [
        ("sshd has forcecommand x", "ForceCommand none"), ("the shell is /bin/false", "chsh"),
    ]  # fmt: skip


def test_an_sshd_that_cannot_be_asked_is_reported_and_the_other_files_are_checked(root: Root) -> None:
    root.faults = ServerError("sshd: Bad configuration option", hint="x")
    root.unfiltered = True
    sshd, rules = root.failed()
    assert (sshd.why, sshd.fix) == (
        "sshd: Bad configuration option",
        "systemctl status ssh; sshd -T shows the settings in effect",
    )
    assert rules.what == "watchdog, heartbeat and pcp ports are closed to other hosts"
    assert (rules.why, rules.fix) == (
        "the table inet pgpool2_cluster is not loaded", "systemctl restart pgpool2-cluster-firewall.service",
    )  # fmt: skip
