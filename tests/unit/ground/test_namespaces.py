"""Commands run as root of a user namespace, or as the real root; a machine that allows neither says what to install."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgpool_deb.ground import namespaces
from pgpool_deb.ground.errors import MachineError


@pytest.fixture(autouse=True)
def unknown() -> Iterator[None]:
    """Forget what is known about this machine, before and after a test."""
    namespaces._user_namespace.cache_clear()
    yield
    namespaces._user_namespace.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """A function that sets the user and unshare's answer, and returns the list of commands that run."""

    def machine(uid: int, status: int = 0, errors: str = "") -> list[list[str]]:
        ran: list[list[str]] = []

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            ran.append(command)
            return subprocess.CompletedProcess(command, status, "", errors)

        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(subprocess, "run", run)
        return ran

    return machine


def test_root_needs_no_user_namespace_and_tries_none(machine: Callable[..., list[list[str]]]) -> None:
    ran = machine(0)
    words = namespaces.as_root()
    assert words[0] == "unshare"
    assert "--user" not in words
    assert {"--mount", "--kill-child"} <= set(words), "all that a command mounts or starts ends with it"
    assert ran == []


def test_a_plain_user_becomes_root_of_a_namespace_that_is_tried_once(machine: Callable[..., list[list[str]]]) -> None:
    ran = machine(1000)
    assert namespaces.as_root()[:4] == ["unshare", "--user", "--map-root-user", "--map-auto"]
    namespaces.as_root(confined=True)
    assert ran == [["unshare", "--user", "--map-root-user", "--map-auto", "true"]]


def test_only_a_confined_command_loses_the_network(machine: Callable[..., list[list[str]]]) -> None:
    machine(0)
    assert "--net" in namespaces.as_root(confined=True)
    assert "--net" not in namespaces.as_root()


@pytest.mark.parametrize(
    ("errors", "reason"),
    [("note\nunshare: write failed /proc/self/uid_map\n", "unshare: write failed /proc/self/uid_map"),
     ("", "unshare failed")],
)  # fmt: skip
def test_a_machine_without_user_namespaces_names_the_reason_and_the_remedy(
    machine: Callable[..., list[list[str]]], errors: str, reason: str
) -> None:
    ran = machine(1000, 1, errors)
    with pytest.raises(MachineError) as raised:
        namespaces.as_root()
    assert raised.value.message == f"this user cannot make a user namespace: {reason}"
    assert "uidmap" in raised.value.hint
    assert "/etc/subuid" in raised.value.hint
    with pytest.raises(MachineError):
        namespaces.as_root()
    assert len(ran) == 2, "the remedy needs no new process"


def test_a_tree_is_removed_as_root_and_a_missing_one_needs_no_command(
    machine: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    ran = machine(0)
    namespaces.remove(tmp_path / "missing")
    assert ran == []
    namespaces.remove(tmp_path)
    (command,) = ran
    assert command[:1] + command[-4:] == ["unshare", "rm", "-rf", "--one-file-system", str(tmp_path)]
