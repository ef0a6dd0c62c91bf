"""The toolkit's errors: each has a message, a hint and an exit status.

Every error that a user can meet is a `ToolkitError`. The command line prints `message` on the first line and
`hint: …` on the second, and exits with `exit_status` (docs/reference/build-deb.md); it prints nothing else.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit status of `./invoke`, which separates a faulty package from a faulty environment."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3


def printable(text: str) -> str:
    """Return a text as one line that any terminal shows: a file's name can hold a newline, or no characters at all."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class ToolkitError(Exception):
    """An error with a one-line message for the user and a hint; only its subclasses are raised."""

    exit_status: ExitStatus = ExitStatus.FAILED

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = printable(message)
        self.hint = printable(hint)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


class PackageError(ToolkitError):
    """A package does not build, or it does not pass its checks (exit status 1)."""

    exit_status = ExitStatus.FAILED


class UsageError(ToolkitError):
    """Wrong usage or configuration (exit status 2)."""

    exit_status = ExitStatus.USAGE


class MachineError(ToolkitError):
    """The mirror, the disk, the engine or a tool of the machine failed (exit status 3)."""

    exit_status = ExitStatus.ENVIRONMENT
