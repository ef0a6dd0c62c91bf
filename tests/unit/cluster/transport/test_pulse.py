"""The unit's watchdog is fed while the agent's loop runs, or a copy within the loop makes progress."""

from __future__ import annotations

import contextlib
import faulthandler
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_cluster.agent import life_signs
from pgpool_cluster.agent.life_signs import LifeSigns
from pgpool_cluster.cli import verbs
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


@pytest.fixture
def feeder(systemd: socket.socket) -> Iterator[pulse.Feeder]:
    """A feeder that a thread calls at short intervals."""
    del systemd
    found, over = pulse.Feeder(), threading.Event()

    def feed() -> None:
        while not over.wait(0.005):
            found.feed()

    thread = threading.Thread(target=feed)
    thread.start()
    yield found
    over.set()
    thread.join()


@pytest.mark.usefixtures("feeder")
def test_the_watchdog_is_fed_between_two_rounds_and_no_longer(systemd: socket.socket) -> None:
    pulse.beat()
    assert heard(systemd) == {"WATCHDOG=1"}
    pulse.beat(0.05)
    time.sleep(0.06)
    assert heard(systemd) == set()
    pulse.beat()
    assert heard(systemd) == {"WATCHDOG=1"}


@pytest.mark.usefixtures("feeder")
def test_every_part_must_keep_its_promise(systemd: socket.socket) -> None:
    pulse.beat(0.0, "signs of life")
    pulse.beat()
    assert heard(systemd) == set()
    pulse.end("signs of life")
    assert heard(systemd) == {"WATCHDOG=1"}


def test_a_watch_for_signs_of_life_that_hangs_starves_the_watchdog(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, feeder: pulse.Feeder
) -> None:
    """The fence depends on it."""
    del feeder
    hangs, over = threading.Event(), threading.Event()
    monkeypatch.setattr(life_signs, "_ROUND_SECONDS", 0.05)
    monkeypatch.setattr(life_signs, "_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(LifeSigns, "step", lambda _: hangs.is_set() and over.wait(10))
    here: Any = None
    with LifeSigns(here, lambda: None).running():
        assert heard(systemd) == {"WATCHDOG=1"}
        hangs.set()
        time.sleep(0.3)
        assert heard(systemd) == set()
        over.set()
    assert heard(systemd) == {"WATCHDOG=1"}, "a part that has ended promises nothing"


def test_the_feeder_sends_six_messages_in_the_time_limit_however_often_it_is_called(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "6000000")
    clock = [100.0]
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = pulse.Feeder()
    for tick in range(60):
        clock[0] = 100.05 + tick / 10
        found.feed()
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(systemd.recv(100))
    pulse.end("loop")
    assert len(messages) == 6


@pytest.mark.usefixtures("feeder")
def test_a_copy_that_reports_progress_feeds_the_watchdog(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "PROGRESS_SECONDS", 30.0)
    pulse.beat(0.0)
    assert heard(systemd) == set()
    copy_program.run(["/bin/sh", "-c", "echo '  1/10 kB (10%)'"], lambda _: None)
    assert heard(systemd) == {"WATCHDOG=1"}


def test_without_a_watchdog_nothing_is_sent(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    pulse.Feeder().feed()
    assert heard(systemd) == set()


def test_an_agent_that_hangs_or_dies_is_back_within_seconds_but_a_short_stop_does_not_kill_it() -> None:
    """A stop of 4 s ends at most 5 s after the last message, because one is sent every second."""
    found = dict(line.split("=", 1) for line in UNIT.read_text(encoding="utf-8").splitlines() if "=" in line)
    assert found["Type"] == "notify"
    assert found["Restart"] == "always"
    assert found["StartLimitIntervalSec"] == "0", "systemd must not give up"
    limit, pause = (timedelta(**seconds(found[name])) for name in ("WatchdogSec", "RestartSec"))
    assert timedelta(seconds=5) < limit <= timedelta(seconds=6)
    assert pause <= timedelta(seconds=0.5)
    assert limit.total_seconds() > verbs._RESTART_PAUSE_SECONDS, "an agent that cannot start must not be aborted"


def seconds(text: str) -> dict[str, float]:
    number, unit = re.fullmatch(r"(\d+)(ms|s)", text).groups()  # type: ignore[union-attr]
    return {"milliseconds" if unit == "ms" else "seconds": float(number)}
