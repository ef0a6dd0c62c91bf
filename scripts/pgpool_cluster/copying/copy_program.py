"""Run pg_basebackup or pg_rewind, and report the progress that it prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ground import log, programs
from ..ground.errors import OperationError
from ..transport import pulse
from ..transport.peers import Progress

_PROGRESS = re.compile(r"\s*(\d+)/(\d+) kB \((\d+)%\)")


def run(command: Sequence[str], report: Progress) -> None:
    """Run a program of PostgreSQL and report its progress; raises OperationError with its own reason."""
    output = _Output(Path(command[0]).name, report)
    pulse.beat(pulse.PROGRESS_SECONDS)
    status = programs.stream(command, output.take, environment={"LC_ALL": "C"})
    if status != 0:
        why = output.reason.split(": error: ")[-1] or f"exit status {status}"
        raise OperationError(f"{output.program}: {why}", hint="run the same command again")


@dataclass(slots=True)
class _Output:
    """The output of a running program; `reason` is its last line that is no progress."""

    program: str
    report: Progress
    reason: str = ""
    _reported: str = ""

    def take(self, line: str) -> None:
        pulse.beat(pulse.PROGRESS_SECONDS)
        match = _PROGRESS.match(line)
        if match is None:
            if line.strip():
                log.info(f"{self.program}: {line.strip()}")
                self.reason = line.strip()
        elif _in_words(match) != self._reported:
            self._reported = _in_words(match)
            self.report(self._reported)


def _in_words(match: re.Match[str]) -> str:
    done, total, percent = (int(group) for group in match.groups())
    return f"{done * 1024} of {total * 1024} bytes ({min(percent, 100)} %)"
