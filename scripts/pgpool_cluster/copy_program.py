"""Run pg_basebackup or pg_rewind, and report the progress that it prints."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from . import log, pulse
from .errors import OperationError

Report = Callable[[str], None]
_PROGRESS = re.compile(r"\s*(\d+)/(\d+) kB \((\d+)%\)")


def run(command: Sequence[str], report: Report) -> None:
    """Run a program of PostgreSQL and report its progress; raises OperationError with its own reason."""
    name = Path(command[0]).name
    reason, reported = "", ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        cwd="/",
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        pulse.beat(pulse.PROGRESS_SECONDS)
        for line in process.stdout:  # text mode treats \r as an end of line
            pulse.beat(pulse.PROGRESS_SECONDS)
            match = _PROGRESS.match(line)
            if match:
                if _in_words(match) != reported:
                    reported = _in_words(match)
                    report(reported)
            elif line.strip():
                log.info(f"{name}: {line.strip()}")
                reason = line.strip()
    if process.returncode != 0:
        why = reason.split(": error: ")[-1] or f"exit status {process.returncode}"
        raise OperationError(f"{name}: {why}", hint="run the same command again")


def _in_words(match: re.Match[str]) -> str:
    done, total, percent = (int(group) for group in match.groups())
    return f"{done * 1024} of {total * 1024} bytes ({min(percent, 100)} %)"
