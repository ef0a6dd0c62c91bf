"""The one tree of errors: what went wrong, what to do next, and the exit status that follows.

Every error that an administrator can meet is a `ClusterError`. `pgpoolctl` prints `message` on the first line and
`hint: …` on the second and exits with `exit_status`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit status of `pgpoolctl`, the same classes as on the build machine."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3


class ClusterError(Exception):
    """An error with one line for the administrator and one hint; never raised itself, only its subclasses."""

    exit_status: ExitStatus = ExitStatus.FAILED

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


class OperationError(ClusterError):
    """Something that was asked for did not come about (exit status 1)."""

    exit_status = ExitStatus.FAILED


class UsageError(ClusterError):
    """Wrong usage or configuration (exit status 2)."""

    exit_status = ExitStatus.USAGE


class ServerError(ClusterError):
    """The server, its disk, its network or a program it lacks is to blame (exit status 3)."""

    exit_status = ExitStatus.ENVIRONMENT
