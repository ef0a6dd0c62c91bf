"""The cache folder: its path, its tag, and its locks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus, MachineError

HOLD = """
import sys, time
from pathlib import Path
from pgpool_deb.ground.cache import Cache
with Cache(Path(sys.argv[1])).locked("build", print):
    print("held", flush=True)
    time.sleep(60)
"""


def ignore(_: str) -> None:
    """Ignore the message."""


def holder(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "packaging")}
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "chosen" / "deep"))
    assert Cache.open().path == tmp_path / "chosen" / "deep"
    assert (
        (tmp_path / "chosen" / "deep" / "CACHEDIR.TAG")
        .read_text()
        .startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )


def test_the_default_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPOOL_DEB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.open().path == tmp_path / "pgpool-deb"


def test_a_folder_that_cannot_be_created_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGPOOL_DEB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        MachineError, match=r"the cache folder .*/file/cache cannot be written: Not a directory"
    ) as raised:
        Cache.open()
    assert raised.value.exit_status is ExitStatus.ENVIRONMENT
    assert "PGPOOL_DEB_CACHE=/path" in raised.value.hint


def test_folders_are_created_on_demand(tmp_path: Path) -> None:
    assert Cache(tmp_path).folder("a", "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_second_run_waits_and_names_the_first(tmp_path: Path) -> None:
    first = holder(tmp_path)
    output: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with Cache(tmp_path).locked("build", output.append):
            entered.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    deadline = time.monotonic() + 5
    while not output and time.monotonic() < deadline:
        time.sleep(0.01)
    assert output == [f"waiting for the run with process id {first.pid} (build)"]
    assert not entered.is_set()
    first.kill()  # the kernel still releases the lock
    first.communicate()
    waiting.join(5)
    assert entered.is_set()


def test_locks_of_different_names_do_not_wait_for_each_other(tmp_path: Path) -> None:
    output: list[str] = []
    with Cache(tmp_path).locked("root-sid", output.append), Cache(tmp_path).locked("root-trixie", output.append):
        assert output == []


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), Cache(tmp_path).locked("build", ignore):
        raise ValueError("inside")
    output: list[str] = []
    with Cache(tmp_path).locked("build", output.append):
        assert output == []
