"""The server is killed with all of its processes, also when it is stopped, and no other process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_cluster.ground import paths
from pgpool_cluster.machine import process_watch
from pgpool_cluster.postgresql import postmaster

_POSTMASTER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
open("/proc/self/comm", "w").write("postgres")
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""


class Running:
    """A process in a data directory that has two children, in place of a postmaster."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [sys.executable, "-c", _POSTMASTER], cwd=data, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.children = [int(word) for word in self.process.stdout.readline().split()]
        self.note(self.process.pid)

    @property
    def instance(self) -> Any:
        return SimpleNamespace(data=self.data)

    def note(self, number: object) -> None:
        (self.data / "postmaster.pid").write_text(f"{number}\n{self.data}\n1764500000\n5432\n")

    def end(self) -> None:
        for number in (self.process.pid, *self.children):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(paths, "STOPPED", tmp_path / "stopped")
    data = tmp_path / "data"
    data.mkdir()
    found = Running(data)
    yield found
    found.end()


def test_all_processes_of_the_server_are_killed(running: Running) -> None:
    assert postmaster.runs(running.instance)
    assert postmaster.kill(running.instance)
    assert not any(map(process_watch.is_left, (running.process.pid, *running.children)))
    assert paths.STOPPED.exists(), "otherwise the agent would think that an administrator had stopped it"
    assert not postmaster.runs(running.instance)


def test_a_server_that_a_signal_has_stopped_is_killed_as_well(running: Running) -> None:
    for number in (running.process.pid, *running.children):
        os.kill(number, signal.SIGSTOP)
    began = time.monotonic()
    assert postmaster.kill(running.instance)
    assert time.monotonic() - began < postmaster._END_SECONDS
    assert not any(map(process_watch.is_left, (running.process.pid, *running.children)))


def test_a_stale_postmaster_pid_kills_no_other_process(running: Running) -> None:
    """After a crash, the number may belong to any process, such as this one."""
    running.note(os.getpid())
    assert not postmaster.runs(running.instance)
    assert postmaster.kill(running.instance)
    assert process_watch.is_left(running.process.pid)


@pytest.mark.parametrize("text", ["", "x\n", "-1\n", "999999999\n"])
def test_a_file_without_a_process_means_that_the_server_is_down(running: Running, text: str) -> None:
    (running.data / "postmaster.pid").write_text(text)
    assert not postmaster.runs(running.instance)


def test_a_server_without_the_file_is_down(tmp_path: Path) -> None:
    down: Any = SimpleNamespace(data=tmp_path)
    assert not postmaster.runs(down)
    assert postmaster.kill(down)


def test_a_server_ends_by_a_fast_shutdown(running: Running) -> None:
    assert postmaster.end(running.instance, seconds=5)
    assert running.process.wait(5) == 0, "SIGINT is a fast shutdown, which writes a checkpoint"
    assert postmaster.end(running.instance, seconds=0), "it has ended already"


def test_a_server_that_does_not_end_in_time_is_reported(running: Running) -> None:
    running.process.send_signal(signal.SIGSTOP)
    assert not postmaster.end(running.instance, seconds=0.05)
