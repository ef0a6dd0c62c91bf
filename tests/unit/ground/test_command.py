"""Programs are logged, and none of their processes outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from tests.unit.eventually import eventually

from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner, Stop, Stopped
from pgpool_deb.ground.errors import MachineError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(path: Path) -> int:
    assert eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_the_log_has_a_command_line_to_paste_and_both_outputs(log: Path) -> None:
    heard: list[str] = []
    Runner(log, on_line=heard.append).run(
        ["sh", "-c", 'echo "$1"; echo to stderr >&2; printf "no newline"', "sh", "a b"]
    )
    command, *lines = log.read_text().splitlines()
    assert command.startswith("$ sh -c ")
    assert command.endswith("sh 'a b'")
    assert lines == heard == ["a b", "to stderr", "no newline"]


def test_the_next_command_is_added_to_the_log(log: Path) -> None:
    for word in ("one", "two"):
        Runner(log).run(["echo", word])
    assert log.read_text() == "$ echo one\none\n$ echo two\ntwo\n"


def test_bytes_that_are_not_utf8_are_replaced(log: Path) -> None:
    Runner(log).run(["printf", r"caf\351 \377\n"])
    assert log.read_text().splitlines()[1:] == ["caf\ufffd \ufffd"]


def test_a_program_gets_no_standard_input_and_the_given_environment_and_folder(log: Path, tmp_path: Path) -> None:
    Runner(log).run(["/bin/sh", "-c", "cat; echo $ONLY; pwd"], env={"ONLY": "this", "PATH": "/usr/bin"}, cwd=tmp_path)
    assert log.read_text().splitlines()[1:] == ["this", str(tmp_path)]


def test_a_failure_contains_the_status_and_the_last_lines(log: Path) -> None:
    with pytest.raises(CommandFailed, match="status 7") as failure:
        Runner(log).run(["sh", "-c", "seq 300; exit 7"])
    assert failure.value.status == 7
    assert failure.value.lines == tuple(str(number) for number in range(101, 301))
    assert failure.value.argv[0] == "sh"


def test_a_program_that_a_signal_ends_has_failed(log: Path) -> None:
    with pytest.raises(CommandFailed) as failure:
        Runner(log).run(["sh", "-c", "kill -TERM $$"])
    assert failure.value.status == -signal.SIGTERM


def test_a_missing_program_is_a_failure_with_its_name_in_the_log(log: Path) -> None:
    with pytest.raises(CommandFailed) as failure:
        Runner(log).run(["/no/such/program"])
    assert failure.value.status == 127
    assert "/no/such/program" in failure.value.lines[-1]


def test_without_setpriv_it_is_the_machines_fault(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"^setpriv is missing\nhint: apt-get install util-linux$"):
        Runner(log).run(["true"])


@pytest.mark.parametrize(
    "script",
    ["echo $$ >pid; sleep 60", "echo $$ >pid; exec >/dev/null 2>&1; sleep 60"],
    ids=["silent", "output closed"],
)
def test_a_program_that_prints_nothing_for_too_long_is_killed(log: Path, tmp_path: Path, script: str) -> None:
    began = time.monotonic()
    with pytest.raises(CommandStalled):
        Runner(log, stall=1.5).run(["sh", "-c", script], cwd=tmp_path)
    assert 1.5 <= time.monotonic() - began < 15
    assert eventually(lambda: not alive(pid_in(tmp_path / "pid")))


def test_a_program_that_keeps_printing_never_counts_as_stalled(log: Path) -> None:
    Runner(log, stall=1.0).run(["sh", "-c", "for i in 1 2 3 4 5 6; do printf .; sleep 0.3; done; echo"])
    assert log.read_text().endswith("......\n")


@pytest.mark.parametrize("script", ["sleep 60", "exec >/dev/null 2>&1; sleep 60"], ids=["silent", "output closed"])
def test_a_stop_ends_the_program_and_all_its_children(log: Path, tmp_path: Path, script: str) -> None:
    stop = Stop()
    child = tmp_path / "child"

    def when_the_child_is_there() -> None:
        pid_in(child)
        stop.set()

    timer = threading.Thread(target=when_the_child_is_there)
    timer.start()
    with pytest.raises(Stopped):
        Runner(log, stop, stall=60).run(["sh", "-c", f"(echo $(exec sh -c 'echo $PPID') >{child}; {script}) & wait"])
    timer.join()
    assert eventually(lambda: not alive(pid_in(child)))


def test_nothing_is_started_once_the_run_is_stopped(log: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Stopped):
        Runner(log, stop).run(["touch", str(log.with_name("made"))])
    assert not log.with_name("made").exists()


def test_background_processes_of_a_program_end_with_it(log: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    Runner(log).run(["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! >{left}"])
    assert eventually(lambda: not alive(pid_in(left)))


def test_programs_die_with_the_tool_even_by_kill_9(log: Path, tmp_path: Path) -> None:
    tool = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from concurrent.futures import ThreadPoolExecutor
        from pgpool_deb.ground.command import Runner
        with ThreadPoolExecutor() as pool:
            pool.submit(Runner(Path(sys.argv[1])).run, ["sh", "-c", "echo $$ >$0; exec sleep 60", sys.argv[2]])
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "packaging")}
    process = subprocess.Popen([sys.executable, "-c", tool, str(log), str(tmp_path / "pid")], env=environment)
    child = pid_in(tmp_path / "pid")
    assert alive(child)
    process.kill()
    process.wait()
    assert eventually(lambda: not alive(child))
