"""Run Invoke with this project's exit status and errors: wrong usage exits with 2; errors print a message and a hint.

Invoke itself exits with 1 if it cannot parse the command line. Here, 1 means that a package or a test failed
(docs/reference/build-deb.md).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from invoke import Program
from invoke.exceptions import Exit, ParseError

from pgpool_deb.ground.errors import ExitStatus, MachineError, ToolkitError, UsageError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""The errors of a disk that is full, read-only, inaccessible or broken."""


class Toolkit(Program):
    """Invoke's Program with this project's exit status; otherwise it behaves as Invoke does."""

    def load_collection(self) -> None:
        """Load tasks.py; a missing one is wrong usage."""
        try:
            super().load_collection()
        except Exit as error:  # Invoke turns CollectionNotFound into it
            raise UsageError("no tasks.py found", hint="run ./invoke of a checkout") from error

    def parse_tasks(self) -> None:
        """Parse task names and their options; a command line that cannot be parsed is wrong usage."""
        try:
            super().parse_tasks()
        except ParseError as error:
            raise UsageError(str(error), hint="./invoke --list, or ./invoke --help TASK") from error
        except ValueError as error:  # from Invoke's conversion of an option that takes a number
            raise UsageError(f"an option has a wrong value: {error}", hint="./invoke --help TASK") from error

    def execute(self) -> None:
        """Run the tasks. Unlike in Invoke, Ctrl-C has another exit status than a failed package."""
        try:
            super().execute()
        except KeyboardInterrupt as interrupt:
            raise MachineError("interrupted", hint="run the same command again to continue") from interrupt


def run(project: str, arguments: Sequence[str]) -> ExitStatus:
    """Run tasks of the checkout at `project`; print an error's message and hint, and return its exit status."""
    program = Toolkit(name="invoke", binary="invoke", version="1")
    try:
        program.run(["invoke", "--search-root", project, *arguments])
    except ToolkitError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in _DISK:
            raise
        print(_explained(error), file=sys.stderr)
        return ExitStatus.ENVIRONMENT
    return ExitStatus.GOOD


def _explained(error: OSError) -> MachineError:
    where = f"{error.filename}: " if error.filename else ""
    return MachineError(f"{where}{error.strerror}", hint="fix the cause, then run the same command again")


def main(project: str) -> NoReturn:
    """Run with the arguments of this process and exit."""
    sys.exit(run(project, sys.argv[1:]))
