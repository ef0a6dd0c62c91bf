"""The one place that runs programs: logged, replayable, stopped when they hang or when the user stops the tool."""

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


class CommandFailed(Exception):  # noqa: N818 - it is caught and turned into a ToolkitError by who knows the meaning
    """A program ended with another status than 0; `lines` are its last lines of output."""

    def __init__(self, argv: Sequence[str], status: int, lines: Sequence[str]) -> None:
        super().__init__(f"{shlex.join(argv)} ended with status {status}")
        self.argv = tuple(argv)
        self.status = status
        self.lines = tuple(lines)


class CommandStalled(CommandFailed):
    """A program printed nothing for longer than the stall timeout and was killed."""


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The run was stopped (Ctrl-C or a failing environment) while this program ran."""


@dataclass(slots=True)
class Stop:
    """Tells every running command to end; set once, by whoever stops the run."""

    event: threading.Event = field(default_factory=threading.Event)

    def set(self) -> None:
        """End all commands that run under this stop, now."""
        self.event.set()

    def check(self) -> None:
        """Raise Stopped where the run has been stopped."""
        if self.event.is_set():
            raise Stopped


@dataclass(slots=True)
class Runner:
    """Runs programs into one log. A program gets no standard input and dies with this process, even by kill -9."""

    log: Path
    stop: Stop = field(default_factory=Stop)
    stall: float = STALL_SECONDS
    on_line: Callable[[str], None] | None = None
    _tail: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        """Run `argv` to its end, output and the replayable command line into the log.

        Raises CommandFailed, CommandStalled after `stall` seconds without a line, Stopped when the run is stopped.
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
        while not has_ended(process):  # it may close its output long before
            self.stop.check()
            if time.monotonic() - last > self.stall:
                raise CommandStalled(argv, -1, self._tail)
            time.sleep(_POLL_SECONDS / 10)

    def take(self, line: str, log: IO[str]) -> None:
        """Write one line of output to the log and pass it on."""
        log.write(line + "\n")
        log.flush()
        self._tail = [*self._tail[-199:], line]
        if self.on_line:
            self.on_line(line)


def start(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` in a process group of its own that the kernel kills when the calling thread ends.

    Raises MachineError where setpriv(1) is missing.
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
    """Tell whether a process has ended, and leave it unreaped: its group's number stays its own until then."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process group and reap its leader."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
