"""Connections to PostgreSQL on which every wait has a deadline, whatever the server does.

The server itself enforces statement_timeout. If it is stopped, or its disk hangs, its clients wait for ever. So this
module installs a wait callback in psycopg2 (psycopg2.extensions.set_wait_callback), which also covers connecting.
"""

from __future__ import annotations

import math
import select
import time
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import psycopg2.extensions  # type: ignore[import-untyped,unused-ignore]

CONNECT_SECONDS = 5.0
_OTHER_SECONDS = 600.0
"""Time limit for a connection that `connect` has not made."""


class Unanswered(psycopg2.OperationalError):  # type: ignore[misc,unused-ignore]
    """The server did not answer in time. The connection is closed, and the fate of the statement is unknown."""


class Connection(psycopg2.extensions.connection):  # type: ignore[misc,unused-ignore]
    """A connection on which a wait ends after `seconds`, and at the latest at `until` by the monotonic clock."""

    def __init__(self, dsn: str, until: float) -> None:
        self.seconds, self.until = CONNECT_SECONDS, until
        super().__init__(dsn)


def connect(*, seconds: float, until: float = math.inf, **parameters: object) -> Connection:
    """Connect within 5 s, with autocommit; a statement may take `seconds`. Raises psycopg2.Error.

    `until`: deadline for all waits, by the monotonic clock. `parameters` are those of psycopg2.connect().
    """
    connection: Any = psycopg2.connect(connection_factory=lambda dsn: Connection(dsn, until), **parameters)
    connection.seconds = seconds
    connection.autocommit = True
    return connection  # type: ignore[no-any-return,unused-ignore]


def _wait(connection: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
    """Wait until `connection` is ready; psycopg2 closes it if this raises."""
    began = time.monotonic()
    deadline = min(began + getattr(connection, "seconds", _OTHER_SECONDS), getattr(connection, "until", math.inf))
    events = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        poller = select.poll()  # a new one each time, because libpq may change its socket while it connects
        poller.register(connection.fileno(), events[state])
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000) and time.monotonic() >= deadline:
            raise Unanswered(f"the server did not answer within {time.monotonic() - began:.1f} s")


psycopg2.extensions.set_wait_callback(_wait)
