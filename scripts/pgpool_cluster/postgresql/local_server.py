"""Keep connections to this node's PostgreSQL server, whose waits all have a deadline."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import psycopg2.extensions  # type: ignore[import-untyped,unused-ignore]

from ..ground import paths
from ..ground.connection import Connection, Unanswered, connect
from ..machine.server import Instance
from . import libpq

_STATEMENT_SECONDS = 15.0
"""Time limit for a statement; longer than statement_timeout, which a working server enforces itself."""
_OPTIONS = (
    "-c statement_timeout=10s -c synchronous_commit=local -c lock_timeout=5s"
    " -c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic"
)
"""These sessions wait for no standby, hold no lock for long, and never write a verifier to a log."""


@dataclass(slots=True)
class KeptConnection:
    """A persistent connection as the role postgres over the server's socket, reopened when it breaks."""

    port: int
    _connection: Connection | None = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def query(self, sql: str, values: Sequence[object], seconds: float) -> list[tuple[Any, ...]]:
        """Run one statement; raises psycopg2.Error, and Unanswered after `seconds` in total."""
        until = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            raise Unanswered(f"another statement took more than {seconds:g} s")
        try:
            fresh = self._connection is None
            try:
                return self._run(sql, values, until)
            except psycopg2.Error as error:
                broken = self._connection is not None and bool(self._connection.closed)
                if broken:
                    self._connection = None
                if fresh or not broken or isinstance(error, Unanswered):
                    raise
                return self._run(sql, values, until)
        finally:
            self._lock.release()

    def _run(self, sql: str, values: Sequence[object], until: float) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = connect_home(self.port, seconds=math.inf, until=until)
        self._connection.until = until
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        """Close the connection; the next query opens a new one."""
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(psycopg2.Error):
                    self._connection.close()
            self._connection = None


def _connect(port: int, database: str, *, seconds: float, until: float = math.inf) -> Connection:
    return connect(
        **libpq.local(port, database),
        application_name=libpq.APPLICATION,
        options=_OPTIONS,
        seconds=seconds,
        until=until,
    )


def connect_home(port: int, *, seconds: float, until: float = math.inf) -> Connection:
    """Connect to the database postgres, or to the cluster's own if an administrator has dropped or renamed that."""
    try:
        return _connect(port, "postgres", seconds=seconds, until=until)
    except Unanswered:
        raise
    except psycopg2.Error:
        own = paths.database()
        if own == "postgres":
            raise
        with contextlib.suppress(psycopg2.Error):
            return _connect(port, own, seconds=seconds, until=until)
        raise


@dataclass(slots=True)
class LocalServer:
    """The server of this node, queried as the role postgres.

    A separate connection collects facts, so that these never wait for a long statement. Every wait has a deadline,
    whatever the server does.
    """

    instance: Instance
    _statements: KeptConnection = field(init=False, repr=False)
    _looks: KeptConnection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._statements, self._looks = KeptConnection(self.instance.port), KeptConnection(self.instance.port)

    def query(
        self, sql: str, values: Sequence[object] = (), *, seconds: float = _STATEMENT_SECONDS
    ) -> list[tuple[Any, ...]]:
        """Run one statement with autocommit and return its rows; raises psycopg2.Error, if need be after `seconds`."""
        return self._statements.query(sql, values, seconds)

    def connect(self, database: str, *, seconds: float = _STATEMENT_SECONDS) -> Any:  # noqa: ANN401 - psycopg2 has no types
        """Open another connection with autocommit, whose commits wait for no standby; `seconds` limits a statement."""
        if database == "postgres":
            return connect_home(self.instance.port, seconds=seconds)
        return _connect(self.instance.port, database, seconds=seconds)

    @contextlib.contextmanager
    def session(self, database: str, *, seconds: float = _STATEMENT_SECONDS) -> Iterator[Any]:
        """Yield a cursor in another database, and close the connection afterwards; a statement may take `seconds`."""
        connection = self.connect(database, seconds=seconds)
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections; the next query opens a new one."""
        self._statements.close()
        self._looks.close()
