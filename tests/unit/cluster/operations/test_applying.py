"""Chores that request an `apply` at the same time share one."""

from __future__ import annotations

import threading
import time

import pytest
from tests.unit.eventually import eventually

from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.operations import applying
from pgpool_cluster.operations.applying import Applying


class Root:
    """A stand-in for root's `apply` whose end and failure the test controls."""

    def __init__(self) -> None:
        self.begun, self.fails = 0, False
        self.may_end = threading.Event()
        self.may_end.set()

    def control(self, verb: str) -> None:
        assert verb == "apply"
        self.begun += 1
        assert self.may_end.wait(10)
        if self.fails:
            raise OperationError("no space left", hint="df")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Root:
    made = Root()
    monkeypatch.setattr(units, "control", made.control)
    monkeypatch.setattr(applying, "_GATHER_SECONDS", 0.05)
    return made


def test_simultaneous_requests_share_one_apply(root: Root) -> None:
    """A new cluster used to run three on each node, each with a second of processor time."""
    asked = Applying()
    for what in ("a database", "a certificate", "a database"):
        asked.ask(what)
    assert eventually(lambda: root.begun == 1)
    time.sleep(0.2)
    assert root.begun == 1


def test_a_request_during_an_apply_causes_one_more(root: Root) -> None:
    """The first one may have read its input before the second request."""
    asked = Applying()
    root.may_end.clear()
    asked.ask("a database")
    assert eventually(lambda: root.begun == 1)
    asked.ask("a certificate")
    time.sleep(0.1)
    assert root.begun == 1
    root.may_end.set()
    assert eventually(lambda: root.begun == 2)


def test_the_same_reason_pauses_for_ten_seconds_unless_it_was_done(root: Root) -> None:
    asked = Applying()
    asked.ask("a database")
    assert eventually(lambda: root.begun == 1)
    asked.ask("a database")
    time.sleep(0.2)
    assert root.begun == 1
    asked.done("a database")
    asked.ask("a database")
    assert eventually(lambda: root.begun == 2)


def test_a_failure_is_logged_and_does_not_stop_later_requests(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Applying()
    root.fails = True
    asked.ask("a database")
    asked.ask("a certificate")
    assert eventually(lambda: root.begun == 1)
    assert eventually(
        lambda: "cannot apply a database and a certificate: no space left" in "".join(capsys.readouterr())
    )
    root.fails = False
    asked.done("a certificate")
    asked.ask("a certificate")
    assert eventually(lambda: root.begun == 2)
