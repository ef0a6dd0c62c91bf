"""Main processes are held by pidfd, and only after they have been verified."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgpool_cluster.ground import paths
from pgpool_cluster.machine import process_watch

Begin = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a process with a chosen name and working directory."""
    begun = []

    def start(name: str, folder: Path, *words: str) -> subprocess.Popen[bytes]:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        if not program.exists():
            shutil.copy("/bin/sleep", program)
        begun.append(subprocess.Popen([str(program), *(words or ("60",))], cwd=folder))
        end = time.monotonic() + 5
        comm = Path(f"/proc/{begun[-1].pid}/comm")
        while comm.read_text().strip() != name and time.monotonic() < end:
            time.sleep(0.01)
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    found.mkdir()
    return found


def write_pid(data: Path, pid: int, status: str = "ready   ") -> None:
    (data / "postmaster.pid").write_text(f"{pid}\n{data}\n1700000000\n5432\n/run\nlocalhost\n 1 2\n{status}\n")


def test_a_postmaster_is_held_and_its_end_is_seen(begin: Begin, data: Path) -> None:
    process = begin("postgres", data)
    write_pid(data, process.pid)
    held = process_watch.postmaster(data)
    assert held is not None
    assert (held.pid, held.ended, held.frozen) == (process.pid, False, False)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert held.frozen
    process.kill()
    process.wait()
    assert held.ended
    assert process_watch.left_its_file(held, data)
    held.close()
    assert process_watch.postmaster(data) is None


def test_a_server_of_another_data_directory_or_name_is_not_held(begin: Begin, data: Path, tmp_path: Path) -> None:
    """A stale pid file whose number another process has by now."""
    elsewhere, another = begin("postgres", tmp_path), begin("psql", data)
    for process in (elsewhere, another):
        write_pid(data, process.pid)
        assert process_watch.postmaster(data) is None
    write_pid(data, os.getpid())
    assert process_watch.postmaster(data) is None


def test_a_child_of_a_server_is_not_held(begin: Begin, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/dash", tmp_path / "bin" / "postgres")
    script = f"{tmp_path}/bin/postgres -c 'sleep 60; :' & echo $! >{tmp_path}/child; wait"
    process = begin("postgres", data, "-c", script)
    child = tmp_path / "child"
    end = time.monotonic() + 5
    while not (child.exists() and child.read_text()) and time.monotonic() < end:
        time.sleep(0.01)
    write_pid(data, process.pid)
    held = process_watch.postmaster(data)
    assert held is not None
    held.close()
    number = int(child.read_text())
    write_pid(data, number)
    assert process_watch.postmaster(data) is None
    os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "x\n", "-5\n", "0\n", "1\n", "99999999999999\n", "²\n", "4194305\n"])
def test_a_pid_file_without_a_process_holds_none(text: str, data: Path) -> None:
    (data / "postmaster.pid").write_text(text)
    assert process_watch.postmaster(data) is None


def test_a_pid_file_that_is_none_does_not_block(data: Path) -> None:
    assert process_watch.postmaster(data) is None
    os.mkfifo(data / "postmaster.pid")
    assert process_watch.postmaster(data) is None


@pytest.mark.parametrize("status", ["stopping", "gone"])
def test_a_server_that_shut_down_has_not_left_its_file(status: str, begin: Begin, data: Path) -> None:
    process = begin("postgres", data)
    write_pid(data, process.pid)
    held = process_watch.postmaster(data)
    assert held is not None
    if status == "gone":
        (data / "postmaster.pid").unlink()
    else:
        write_pid(data, process.pid, f"{status} ")
    assert not process_watch.left_its_file(held, data)
    write_pid(data, process.pid + 1)
    assert not process_watch.left_its_file(held, data), "the file of another server"
    held.close()


def test_pgpool_is_held_by_its_pid_file(begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "POOL_PID", tmp_path / "pgpool.pid")
    assert process_watch.pool() is None
    process = begin("pgpool", tmp_path)
    paths.POOL_PID.write_text(f"{process.pid}\0")  # as pgpool-II writes it (main.c, write_pid_file)
    held = process_watch.pool()
    assert held is not None
    assert held.pid == process.pid
    held.close()
    paths.POOL_PID.write_text(f"{begin('other', tmp_path).pid}\n")
    assert process_watch.pool() is None
