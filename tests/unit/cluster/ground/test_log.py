"""Log lines carry a priority where the journal reads them, and stay as they are everywhere else."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from pgpool_cluster.ground import log

SCRIPTS = Path(__file__).parents[4] / "scripts"


class Journal:
    """A file that stands for the socket which systemd connects a unit's output to."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.stream: TextIO = path.open("w")
        found = os.fstat(self.stream.fileno())
        patch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", monkeypatch)
    yield made
    made.stream.close()


def test_each_level_has_its_prefix(journal: Journal) -> None:
    log.error("no disk", stream=journal.stream)
    log.warning("slow disk", stream=journal.stream)
    log.info("disk found", stream=journal.stream)
    assert journal.text == "<3>no disk\n<4>slow disk\n<6>disk found\n"


def test_every_line_of_a_text_has_the_prefix(journal: Journal) -> None:
    log.warning("systemctl restart failed\nunit not found", stream=journal.stream)
    assert journal.text == "<4>systemctl restart failed\n<4>unit not found\n"


def test_a_text_cannot_choose_its_own_priority(journal: Journal) -> None:
    log.info("<3>from a peer\n<0>and more", stream=journal.stream)
    assert journal.text == "<6><3>from a peer\n<6><0>and more\n"


def test_a_terminal_gets_the_text_alone(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.error("no disk\nhint: add one")
    assert capfd.readouterr().out == "no disk\nhint: add one\n"


def test_an_inherited_variable_does_not_mark_another_stream(journal: Journal, tmp_path: Path) -> None:
    with (tmp_path / "elsewhere").open("w") as other:
        log.error("no disk", stream=other)
    assert (tmp_path / "elsewhere").read_text() == "no disk\n"
    assert journal.text == ""


def test_a_stream_without_a_file_gets_the_text_alone(journal: Journal) -> None:
    other = io.StringIO()
    log.warning("slow disk", stream=other)
    assert other.getvalue() == "slow disk\n"


CRASHES = """
import os, sys, threading
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
from pgpool_cluster.ground import log
log.uncaught_as_errors()
def end(): raise SystemExit
def fail(): raise ValueError("in a thread")
for work in (end, fail):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
raise KeyError("at last")
"""


def test_tracebacks_of_uncaught_exceptions_are_errors(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    answer = subprocess.run(
        [sys.executable, "-c", CRASHES], env=environment, capture_output=True, text=True, check=False
    )
    lines = answer.stderr.splitlines()
    assert answer.returncode == 1
    assert [line for line in lines if not line.startswith("<3>")] == []
    assert lines.count("<3>Traceback (most recent call last):") == 2
    assert {"<3>ValueError: in a thread", "<3>KeyError: 'at last'"} <= set(lines)


def test_an_exception_of_a_thread_is_reported_and_its_exit_is_not(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log.uncaught_as_errors()
    for failure in (SystemExit(3), ValueError("in a thread")):
        threading.excepthook(threading.ExceptHookArgs((type(failure), failure, None, None)))
    sys.excepthook(KeyError, KeyError("at last"), None)
    assert capfd.readouterr().err.splitlines() == ["ValueError: in a thread", "KeyError: 'at last'"]


def logged_on_failure() -> list[tuple[str, str]]:
    """Return the calls of log.py in exception handlers: the function, and the file with the text."""
    return [
        (ast.unparse(call.func), f"{path.name}: {ast.unparse(call.args[0])}")
        for path in sorted((SCRIPTS / "pgpool_cluster").glob("**/*.py"))
        for handler in ast.walk(ast.parse(path.read_text()))
        if isinstance(handler, ast.ExceptHandler)
        for call in ast.walk(handler)
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.")
    ]


def test_every_failure_is_logged_as_a_warning_at_least() -> None:
    calls = logged_on_failure()
    assert "log.warning" in dict(calls)
    quiet = [text for function, text in calls if function == "log.info"]
    assert [text for text in quiet if "not started yet" not in text] == [], "a server that waits at boot has not failed"
