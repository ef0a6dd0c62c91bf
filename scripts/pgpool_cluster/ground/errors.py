"""The exceptions of this package: a message, a hint on what to do next, and an exit status.

Every error that an administrator can see is a `ClusterError`. `pgpoolctl` prints `message` on the first line and
`hint: …` on the second, and exits with `exit_status`.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of `pgpoolctl`, with the same meaning as on the build machine."""

    GOOD = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3


class ClusterError(Exception):
    """An error with a one-line message and a hint; only its subclasses are raised."""

    exit_status: ExitStatus = ExitStatus.FAILED

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


class OperationError(ClusterError):
    """A requested operation failed (exit status 1)."""

    exit_status = ExitStatus.FAILED


class UsageError(ClusterError):
    """Wrong usage or configuration (exit status 2)."""

    exit_status = ExitStatus.USAGE


class ServerError(ClusterError):
    """The cause is the server: its disk, its network or a missing program (exit status 3)."""

    exit_status = ExitStatus.ENVIRONMENT
