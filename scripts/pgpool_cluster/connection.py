"""Connections to PostgreSQL on which no wait is without an end, whatever the server does.

statement_timeout is the server's own: one that is stopped, or whose disk hangs, keeps its clients waiting for ever. So
psycopg2 is told to ask here instead of waiting itself (psycopg2.extensions.set_wait_callback), also while it connects.
"""

from __future__ import annotations

import math
import select
import time
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import psycopg2.extensions  # type: ignore[import-untyped,unused-ignore]

CONNECT_SECONDS = 5.0
_ANYBODY_SECONDS = 600.0
"""For a connection that was not made by `connect`."""


class Unanswered(psycopg2.OperationalError):  # type: ignore[misc,unused-ignore]
    """The server did not answer in time; what it does with the statement is unknown, and the connection is closed."""


class Connection(psycopg2.extensions.connection):  # type: ignore[misc,unused-ignore]
    """A connection whose every wait ends after `seconds`, and at the moment `until` of the monotonic clock."""

    def __init__(self, dsn: str, until: float) -> None:
        self.seconds, self.until = CONNECT_SECONDS, until
        super().__init__(dsn)


def connect(*, seconds: float, until: float = math.inf, **parameters: object) -> Connection:
    """Connect with autocommit, which takes 5 s at most; a statement may take `seconds`. Raises psycopg2.Error.

    `until`: also the end of all waits, by the monotonic clock. `parameters` are those of psycopg2.connect().
    """
    connection: Any = psycopg2.connect(connection_factory=lambda dsn: Connection(dsn, until), **parameters)
    connection.seconds = seconds
    connection.autocommit = True
    return connection  # type: ignore[no-any-return,unused-ignore]


def _wait(connection: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
    """Wait until `connection` is ready; psycopg2 closes it where this raises."""
    began = time.monotonic()
    end = min(began + getattr(connection, "seconds", _ANYBODY_SECONDS), getattr(connection, "until", math.inf))
    wanted = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        poller = select.poll()  # anew: while it connects, libpq may go from one socket to another
        poller.register(connection.fileno(), wanted[state])
        if not poller.poll(max(0.0, end - time.monotonic()) * 1000) and time.monotonic() >= end:
            raise Unanswered(f"the server did not answer within {time.monotonic() - began:.1f} s")


psycopg2.extensions.set_wait_callback(_wait)
