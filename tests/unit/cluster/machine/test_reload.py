"""A unit is reloaded even while it is still starting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pgpool_cluster.machine import units
from pgpool_cluster.machine.units import UnitState

CATCHES = """
import signal, sys, time
time.sleep({late})
signal.signal(signal.SIGHUP, lambda *_: (print("reloaded", flush=True), sys.exit(0)))
time.sleep(20)
"""


@pytest.mark.parametrize("late", [0, 0.3])
@pytest.mark.parametrize("active", ["activating", "active"])
def test_a_starting_program_is_reloaded_once_it_handles_the_signal(
    active: str, late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pgpool-II waits seconds for its watchdog, and ignored files written meanwhile; Debian's pgpool-II exited."""
    with subprocess.Popen(
        [sys.executable, "-c", CATCHES.format(late=late)], stdout=subprocess.PIPE, text=True
    ) as program:
        now = UnitState(active, "success", was_active=False, main=program.pid)
        monkeypatch.setattr(units, "state", lambda _: now)
        monkeypatch.setattr(units, "ask", lambda *_: os.kill(program.pid, signal.SIGHUP))
        units.reload("pgpool2.service")
        assert program.communicate(timeout=10)[0] == "reloaded\n"


@pytest.mark.parametrize(
    ("states", "asked"),
    [
        ([UnitState("active", "success", was_active=True, main=7)], [("reload", "pgpool2.service")]),
        ([UnitState("reloading", "success", was_active=True, main=7),
          UnitState("active", "success", was_active=True, main=7)], [("reload", "pgpool2.service")]),
        ([UnitState("active", "success", was_active=True)], []),
        ([UnitState("activating", "success", was_active=False)], []),
        ([UnitState("inactive", "success", was_active=True)], []),
        ([UnitState("failed", "exit-code", was_active=True)], []),
    ],
)  # fmt: skip
def test_a_running_unit_is_reloaded_and_a_stopped_one_is_not(
    states: list[UnitState], asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(units, "_catches", lambda *_: True)
    monkeypatch.setattr(units, "state", lambda _: states.pop(0) if len(states) > 1 else states[0])
    monkeypatch.setattr(units, "ask", lambda *words: told.append(words))
    units.reload("pgpool2.service")
    assert told == asked


def test_a_program_without_a_sighup_handler_is_left_alone_and_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(units, "_CATCHES_SECONDS", 0.1)
    monkeypatch.setattr(units, "_catches", lambda *_: False)
    monkeypatch.setattr(units, "state", lambda _: UnitState("active", "success", was_active=True, main=7))
    monkeypatch.setattr(units, "ask", lambda *_: pytest.fail("it would end"))
    units.reload("pgpool2.service")
    assert "hint: systemctl reload pgpool2.service" in capsys.readouterr().out
