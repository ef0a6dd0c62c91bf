"""The unit's watchdog is fed while the agent's loop runs, or a copy within the loop makes progress."""

from __future__ import annotations

import faulthandler
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgpool_cluster.copying import copy_program
from pgpool_cluster.transport import pulse

UNIT = Path(__file__).resolve().parents[4] / "debian-templates" / "pgpool2-cluster" / "pgpool2-cluster.service"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket to systemd, whose watchdog expects a message every 80 ms."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "80000")
        monkeypatch.setattr(faulthandler, "enable", lambda: None)
        yield listening


def heard(systemd: socket.socket) -> set[str]:
    """Return the messages of the next moment; earlier ones are discarded."""
    found: list[set[str]] = []
    for _ in range(2):
        found.append(set())
        try:
            while True:
                found[-1].add(systemd.recv(100).decode())
        except BlockingIOError:
            time.sleep(0.15)
    return found[-1]


def test_the_watchdog_is_fed_between_two_rounds_and_no_longer(systemd: socket.socket) -> None:
    with pulse.feeding():
        pulse.beat()
        assert heard(systemd) == {"WATCHDOG=1"}
        pulse.beat(0.05)
        time.sleep(0.06)
        assert heard(systemd) == set()
        pulse.beat()
        assert heard(systemd) == {"WATCHDOG=1"}
    assert heard(systemd) == set()


def test_a_copy_that_reports_progress_feeds_the_watchdog(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "PROGRESS_SECONDS", 30.0)
    with pulse.feeding():
        pulse.beat(0.0)
        assert heard(systemd) == set()
        copy_program.run(["/bin/sh", "-c", "echo '  1/10 kB (10%)'"], lambda _: None)
        assert heard(systemd) == {"WATCHDOG=1"}


def test_without_a_watchdog_nothing_is_sent(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    with pulse.feeding():
        assert heard(systemd) == set()


def test_the_unit_has_a_watchdog() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "Restart=always" in lines
