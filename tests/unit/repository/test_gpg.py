"""gpg's agent may fail under load; gpg is run again then, and only then. gpg's clock may lag behind Python's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import MachineError
from pgpool_deb.repository import gpg, signing

TICK_AT_100_HZ_SECONDS = 0.01
FAILING = """#!/bin/sh
echo x >>"$NOTES"
[ "$(wc -l <"$NOTES")" -gt "$FAILURES" ] && {{ cat; exit 0; }}
echo 'gpg: signing failed: {error}' >&2
exit 2
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that has a line for each run of gpg."""
    monkeypatch.setattr(gpg, "_RETRY_PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "notes"


def fails(notes: Path, monkeypatch: pytest.MonkeyPatch, times: int, error: str) -> None:
    """Let gpg fail so many times with this error, and succeed then."""
    program = notes.with_name("gpg")
    program.write_text(FAILING.format(error=error))
    program.chmod(0o755)
    monkeypatch.setenv("FAILURES", str(times))


@pytest.mark.parametrize("error", ["Unmatched parentheses in S-expression", "Cannot allocate memory"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_gpg_is_run_again_if_its_agent_fails_under_load(
    notes: Path, monkeypatch: pytest.MonkeyPatch, error: str, times: int
) -> None:
    fails(notes, monkeypatch, times, error)
    assert gpg.run(None, ["--detach-sign"], b"text") == b"text"
    assert notes.read_text().count("x") == times + 1


@pytest.mark.parametrize(
    ("error", "runs"), [("Unmatched parentheses in S-expression", 3), ("Bad PIN", 1), ("No secret key", 1)]
)
def test_gpg_that_keeps_failing_is_an_error_and_a_wrong_pin_is_tried_once(
    notes: Path, monkeypatch: pytest.MonkeyPatch, error: str, runs: int
) -> None:
    fails(notes, monkeypatch, 9, error)
    with pytest.raises(MachineError, match=f"gpg failed: gpg: signing failed: {error}"):
        gpg.run(None, ["--detach-sign"], b"text")
    assert notes.read_text().count("x") == runs


def test_gpg_starts_after_the_second_on_its_own_clock_which_lags_behind(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """time.time() may be in the next second while time(2), which gpg reads, is still in this one."""
    fails(notes, monkeypatch, 0, "")
    moment = now = 1_796_042_443.95

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    key = signing.Key(None, b"", {}, ())
    assert key.signature("text", int(moment)) == "text"
    assert now > int(moment) + 1 + TICK_AT_100_HZ_SECONDS
