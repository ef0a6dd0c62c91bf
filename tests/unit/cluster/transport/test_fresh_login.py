"""A new login over ssh, and the reason why it fails."""

from __future__ import annotations

import subprocess

import pytest

from pgpool_cluster.ground import programs
from pgpool_cluster.ground.programs import LateProgramError, ProgramError
from pgpool_cluster.transport import fresh_login, reach


@pytest.mark.parametrize(
    ("ended", "why", "fix"),
    [
        ((0, "", ""), "", ""),
        ((1, "This account is currently not available.\n", ""),
         "ssh: This account is currently not available.: the login shell of postgres runs no commands",
         "on pg3: chsh -s /bin/bash postgres"),
        ((255, "", "postgres@10.0.0.3: Permission denied (publickey).\n"),
         "ssh: postgres@10.0.0.3: Permission denied (publickey).: its sshd rejects this node's key for postgres",
         "on pg3, as root: pgpoolctl check"),
        ((255, "", "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nPermission denied (publickey).\n"),
         "ssh: @ WARNING: UNPROTECTED PRIVATE KEY FILE! @: ssh ignores this node's own key, which others can read",
         "pgpoolctl apply on this node"),
        ((3, "", "pgpoolctl: the agent is not running there\nhint: systemctl start pgpool2-cluster\n"),
         "pgpoolctl: the agent is not running there", "start pg3"),
    ],
)  # fmt: skip
def test_a_login_ends_with_the_reason_of_ssh(
    ended: tuple[int, str, str], why: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def attempt(words: list[str], *, seconds: float) -> subprocess.CompletedProcess[str]:
        assert seconds == 2.5
        asked.append(words)
        return subprocess.CompletedProcess(words, *ended)

    monkeypatch.setattr(programs, "attempt", attempt)
    found = fresh_login.refused("pg3", seconds=2.5)
    assert found == why
    assert reach.fix(found, "pg3").startswith(fix)
    (words,) = asked
    assert words[-2:] == ["pg3", "agent"], "the only command that the forced command of the other node allows"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (LateProgramError("ssh", "it did not end within 2.5 s"), "no answer for 2.5 s"),
        (ProgramError("ssh", "this program is not installed"), "ssh: this program is not installed"),
    ],
)
def test_a_login_that_does_not_end_is_a_failure(error: ProgramError, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(programs, "attempt", attempt)
    assert fresh_login.refused("pg3", seconds=2.5) == why
