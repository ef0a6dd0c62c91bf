"""Run programs: log them, let the user replay them, and kill them if they hang or the user stops the tool."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .errors import MachineError

STALL_SECONDS = 600.0
_POLL_SECONDS = 0.2


class CommandFailed(Exception):  # noqa: N818 - the caller knows its meaning and raises a ToolkitError from it
    """A program ended with a status other than 0; `lines` are its last lines of output."""

    def __init__(self, argv: Sequence[str], status: int, lines: Sequence[str]) -> None:
        super().__init__(f"{shlex.join(argv)} ended with status {status}")
        self.argv = tuple(argv)
        self.status = status
        self.lines = tuple(lines)


class CommandStalled(CommandFailed):
    """A program printed nothing for longer than the stall timeout and was killed."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The run was stopped, by Ctrl-C or by a failure of the environment."""


@dataclass(slots=True)
class Stop:
    """Ends every running command once it is set."""

    event: threading.Event = field(default_factory=threading.Event)

    def set(self) -> None:
        """End all commands that run under this stop."""
        self.event.set()

    def check(self) -> None:
        """Raise Stopped if the run has been stopped."""
        if self.event.is_set():
            raise Stopped


@dataclass(slots=True)
class Runner:
    """Runs programs and logs them to one file.

    A program gets no standard input. It dies with this process, even if that is killed with SIGKILL.
    """

    log: Path
    stop: Stop = field(default_factory=Stop)
    stall: float = STALL_SECONDS
    on_line: Callable[[str], None] | None = None
    _tail: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        """Run `argv` to its end; write a command line that can be replayed, and the output, to the log.

        Raises CommandFailed, CommandStalled after `stall` seconds without output, Stopped when the run is stopped.
        """
        self.stop.check()
        self._tail = []
        with self.log.open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"$ {shlex.join(argv)}\n")
            log.flush()
            process = start(argv, env=env, cwd=cwd)
            try:
                self._follow(argv, process, log)
            finally:
                kill_group(process)
            if process.returncode != 0:
                raise CommandFailed(argv, process.returncode, self._tail)

    def _follow(self, argv: Sequence[str], process: subprocess.Popen[bytes], log: IO[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        last = time.monotonic()
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                self.stop.check()
                if selector.select(_POLL_SECONDS):
                    data = os.read(process.stdout.fileno(), 65536)
                    if not data:
                        break
                    last = time.monotonic()
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        self.take(line.decode("utf-8", "replace"), log)
                elif time.monotonic() - last > self.stall:
                    raise CommandStalled(argv, -1, self._tail)
        if pending:
            self.take(pending.decode("utf-8", "replace"), log)
        while not has_ended(process):  # a program may close its output long before it ends
            self.stop.check()
            if time.monotonic() - last > self.stall:
                raise CommandStalled(argv, -1, self._tail)
            time.sleep(_POLL_SECONDS / 10)

    def take(self, line: str, log: IO[str]) -> None:
        """Write one line of output to the log and pass it to `on_line`."""
        log.write(line + "\n")
        log.flush()
        self._tail = [*self._tail[-199:], line]
        if self.on_line:
            self.on_line(line)


def start(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` in its own process group; the kernel kills it when the calling thread ends.

    Raises MachineError if setpriv(1) is missing.
    """
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise MachineError(f"{error.filename} is missing", hint="apt-get install util-linux") from error


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has ended. It stays unreaped, so that the kernel does not reuse its group's number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the remaining processes of a group and reap its leader."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
