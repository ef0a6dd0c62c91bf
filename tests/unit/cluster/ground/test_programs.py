"""Programs run without a terminal and with a time limit, and every failure is one kind of error."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pgpool_cluster.ground.errors import ExitStatus
from pgpool_cluster.ground.programs import LateProgramError, ProgramError, attempt, last_line, run


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_the_output_is_returned_without_the_warnings() -> None:
    assert run(sh("echo out; echo warning >&2")) == "out\n"


def test_standard_input_is_empty() -> None:
    assert run(["cat"], seconds=5) == ""


def test_odd_bytes_are_replaced() -> None:
    assert run(["printf", r"\377"]) == "\ufffd"


def test_the_environment_is_added_to_this_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN", "kept")
    assert run(sh("echo $OWN $LC_ALL"), environment={"LC_ALL": "C"}) == "kept C\n"


def test_a_program_has_a_session_of_its_own() -> None:
    assert run(sh("ps -o sid= -p $$")).strip() != str(os.getsid(0))


def test_a_failure_has_the_last_line_and_a_hint() -> None:
    with pytest.raises(ProgramError) as caught:
        run(sh("echo out; echo first >&2; echo last >&2; exit 3"))
    assert (caught.value.message, caught.value.reason) == ("sh: last", "last")
    assert caught.value.hint
    assert caught.value.exit_status is ExitStatus.ENVIRONMENT


def test_a_failure_without_a_line_has_the_exit_status() -> None:
    with pytest.raises(ProgramError, match="sh: exit status 3"):
        run(sh("exit 3"))


def test_an_attempt_may_fail() -> None:
    ended = attempt(sh("echo out; echo why >&2; exit 3"))
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "out\n", "why\n")
    assert last_line(ended) == "why"


def test_a_missing_program_is_reported() -> None:
    with pytest.raises(ProgramError, match="no-such-program: this program is not installed") as caught:
        attempt(["no-such-program"])
    assert "apt install" in caught.value.hint


def test_a_program_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="Permission denied"):
        attempt([str(tmp_path)])


def test_a_late_program_is_killed() -> None:
    began = time.monotonic()
    with pytest.raises(LateProgramError, match=r"sleep: it did not end within 0\.1 s"):
        attempt(["sleep", "20"], seconds=0.1)
    assert time.monotonic() - began < 10
