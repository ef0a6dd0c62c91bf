"""A test gets the complete output of a command on a host, even if the engine drops some of it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from docker.errors import APIError
from docker.models.containers import Container
from tests import host
from tests.chroot import Answer
from tests.host import Host


class Engine:
    """Runs commands on this machine, and drops the output of the first `drops` answers."""

    def __init__(self, *, drops: int = 0, gone: bool = False) -> None:
        self.drops = drops
        self.gone = gone
        self.asked = 0

    def exec_run(self, words: Sequence[str], *, environment: dict[str, str]) -> tuple[int, bytes]:
        """Answer as docker's SDK does."""
        self.asked += 1
        if self.gone and self.asked > 1:
            raise APIError("no such container")
        done = subprocess.run(words, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, check=False)
        self.drops -= 1
        return done.returncode, b"" if self.drops >= 0 else done.stdout + done.stderr


def on(engine: Engine) -> Host:
    return Host(cast(Container, engine), "one")


@pytest.fixture(autouse=True)
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the copies."""
    monkeypatch.setattr(host, "ANSWERS", str(tmp_path / "answers"))
    return tmp_path / "answers"


@pytest.mark.parametrize("drops", [0, 1, 3])
@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("echo one; echo two >&2", Answer(0, "one\ntwo")),
        ("echo one; exit 3", Answer(3, "one")),
        ("false; echo never", Answer(1, "")),
        ("printf 'no end'", Answer(0, "no end")),
        ("sleep 9", Answer(host.KILLED, "")),
        ("pwd", Answer(0, "/")),
        ("(sleep 0.2; echo late) & echo now", Answer(0, "now")),
    ],
)
def test_an_answer_is_complete_even_if_the_engine_drops_output(script: str, answer: Answer, drops: int) -> None:
    assert on(Engine(drops=drops)).attempt(script, seconds=1) == answer


def test_output_that_stays_lost_is_not_an_empty_answer() -> None:
    with pytest.raises(AssertionError, match="dropped the output of: echo one"):
        on(Engine(drops=9)).attempt("echo one")


def test_a_host_that_goes_down_with_a_command_has_its_status() -> None:
    assert on(Engine(drops=1, gone=True)).attempt("exit 137") == Answer(137, "")


def test_copies_do_not_pile_up(answers: Path) -> None:
    one = on(Engine())
    for _ in range(5):
        one.attempt("true")
    assert len(list(answers.iterdir())) == 1


def test_a_script_has_the_umask_that_the_server_gives(answers: Path) -> None:
    """Files of a script that only root could read kept a server from starting."""
    usual = subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True).stdout.strip()
    assert usual != "0077"
    assert on(Engine()).run("umask") == usual
    assert answers.stat().st_mode & 0o777 == 0o700
