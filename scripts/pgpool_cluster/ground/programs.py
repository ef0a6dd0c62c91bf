"""Run other programs: without a terminal, with a time limit, and with one error for every way to fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

from .errors import ServerError

Ended = subprocess.CompletedProcess[str]
_HINT = "run it by hand to see more"
_ABSENT_HINT = "apt install --reinstall pgpool2-cluster"


class ProgramError(ServerError):
    """A program could not be started, exceeded its time limit, or failed; `reason` is the message without its name."""

    def __init__(self, program: str, reason: str, *, hint: str = _HINT) -> None:
        super().__init__(f"{program}: {reason}", hint=hint)
        self.reason = reason


class LateProgramError(ProgramError):
    """A program has exceeded its time limit and was killed."""


def run(words: Sequence[str], *, seconds: float = 30.0, environment: Mapping[str, str] | None = None) -> str:
    """Run a program as `attempt` does and return its standard output.

    Raises ProgramError with the program's last line if it fails, and as `attempt` does.
    """
    ended = attempt(words, seconds=seconds, environment=environment)
    if ended.returncode != 0:
        raise ProgramError(words[0], last_line(ended))
    return ended.stdout


def attempt(words: Sequence[str], *, seconds: float = 30.0, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a program and return its exit status and its output, whatever the status; its standard input is /dev/null.

    `environment` is added to this process's own. Raises ProgramError if the program cannot be started, and
    LateProgramError if it has not ended within `seconds`.

    The program gets its own session. Otherwise a program that runs as postgres, which other processes of postgres can
    trace, would share root's terminal and could type there (TIOCSTI).
    """
    try:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=None if environment is None else {**os.environ, **environment},
        )
    except FileNotFoundError as error:
        raise ProgramError(words[0], "this program is not installed", hint=_ABSENT_HINT) from error
    except subprocess.TimeoutExpired as error:
        raise LateProgramError(words[0], f"it did not end within {seconds:g} s") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ProgramError(words[0], str(error)) from error


def stream(words: Sequence[str], each: Callable[[str], None], *, environment: Mapping[str, str] | None = None) -> int:
    """Run a program in /, pass each line of its output to `each`, and return its exit status. There is no time limit.

    A carriage return ends a line, too. Raises ProgramError if the program cannot be started.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            cwd="/",
            env=None if environment is None else {**os.environ, **environment},
        )
    except OSError as error:
        raise ProgramError(words[0], str(error), hint=_ABSENT_HINT) from error
    with process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        for line in process.stdout:
            each(line)
    return process.returncode


def last_line(ended: Ended) -> str:
    """Return the last line that a program printed, which usually has its error; its exit status if it printed none."""
    lines = (ended.stderr or ended.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit status {ended.returncode}"
