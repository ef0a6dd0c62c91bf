#!/usr/bin/python3
"""Clients of a cluster: each thread runs transactions in sessions of its own and records them as JSON lines.

This file runs alone on the client's host, with Debian's Python and psycopg2: `client.py SPECIFICATION.json`. The
specification names a folder, and the clients; the history of client N goes to N.jsonl in that folder. SIGTERM ends the
clients; a transaction that has no answer 2 s later is recorded as such.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

GRACE_SECONDS = 2.0
RETRY_SECONDS = 0.02
"""The least pause after a failed transaction."""
HARMLESS = ("25006", "40001", "40P01", "53300", "55P03", "57014", "57P03")
"""SQLSTATEs with which PostgreSQL or pgpool-II refuses a transaction, which then had no effect."""
EACH = 1_000_000
"""Values per client; every value is unique."""
INSERT = "INSERT INTO written (client, number) VALUES (%s, %s)"
APPEND = "UPDATE lists SET items = items || %s WHERE name = %s"
READ = (
    "SELECT host(inet_server_addr()), coalesce(current_setting('in_hot_standby', true), 'off'), name, items "
    "FROM lists WHERE name IN %s"
)
"""Its functions are stable: a volatile one would bind the query to the primary."""
QUERY = "SELECT host(inet_server_addr()) FROM written LIMIT 1"


@dataclass(frozen=True)
class Specification:
    """One client; `role`: write, query, append, read or own (appends and reads in turns)."""

    name: str
    number: int
    role: str
    dsn: str
    kept: bool = True
    """Whether a session is used until it fails; otherwise every transaction has its own."""
    pace: float = 0.01
    """Seconds from the beginning of a transaction to that of the next one."""
    lists: int = 8
    """The number of lists of the workload, named 0, 1, …"""
    reads: int = 3
    """The number of lists that a transaction reads."""


@dataclass
class Client:
    """One client. `connect` has the signature of psycopg2.connect, and `driver_error` is psycopg2.Error."""

    given: Specification
    connect: Callable[[str], Any]
    driver_error: type[Exception]
    output: TextIO
    session: int = 0
    counted: int = 0
    _connection: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: dict[str, Any] | None = None
    _dice: random.Random = field(default_factory=random.Random)
    _own: str = "0"

    def __post_init__(self) -> None:
        self._dice.seed(self.given.number)

    def run(self, ended: threading.Event) -> None:
        """Run transactions at the client's pace until `ended` is set."""
        while not ended.is_set():
            began = time.monotonic()
            pause = RETRY_SECONDS if not self.transaction() else 0.0
            ended.wait(max(pause, began + self.given.pace - time.monotonic()))
        self.close()

    def transaction(self) -> bool:
        """Run and record one transaction; return whether it was acknowledged."""
        row, statement, values = self._next()
        with self._lock:
            self._open = row
        try:
            self._perform(row, statement, values)
        except self.driver_error as error:
            state = getattr(error, "pgcode", None) or ""
            harmless = row["outcome"] == "failed" or state in HARMLESS
            row.update(outcome="failed" if harmless else "unknown", sqlstate=state, error=_first_line(error))
            self.close()
        else:
            row["outcome"] = "ok"
            if not self.given.kept:
                self.close()
        self._record(row)
        return bool(row["outcome"] == "ok")

    def _next(self) -> tuple[dict[str, Any], str, tuple[Any, ...]]:
        """Return the record of the next transaction, its statement and its parameters."""
        given = self.given
        self.counted += 1
        row = {"client": given.name, "session": self.session, "began": time.time(), "ended": 0.0, "outcome": "failed"}
        value = given.number * EACH + self.counted
        if given.role == "write":
            return row | {"appends": {given.name: self.counted}}, INSERT, (given.name, self.counted)
        if given.role == "query":
            return row, QUERY, ()
        if given.role == "append" or (given.role == "own" and self.counted % 2):
            self._own = str(self._dice.randrange(given.lists))
            return row | {"appends": {self._own: value}}, APPEND, (value, self._own)
        names = self._dice.sample([str(number) for number in range(given.lists)], min(given.reads, given.lists))
        if given.role == "own" and self._own not in names:
            names[0] = self._own
        return row, READ, (tuple(names),)

    def _perform(self, row: dict[str, Any], statement: str, values: tuple[Any, ...]) -> None:
        """Run a statement as one transaction. While no session is open, its outcome stays `failed`."""
        if self._connection is None:
            self.session += 1
            row["session"] = self.session
            self._connection = self.connect(self.given.dsn)
            self._connection.autocommit = True
        row["outcome"] = "unknown"
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            if statement == READ:
                found = cursor.fetchall()
                row["reads"] = {name: list(items) for _, _, name, items in found}
                row["node"], row["standby"] = (found[0][0], found[0][1] == "on") if found else ("", False)
            elif statement == QUERY:
                found = cursor.fetchall()
                row["node"] = found[0][0] if found else ""

    def close(self) -> None:
        """Close the session, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(self.driver_error):
                connection.close()

    def _record(self, row: dict[str, Any]) -> None:
        """Write the record of the open transaction, unless it has been written."""
        with self._lock:
            if self._open is not None:
                self._open = None
                self.output.write(json.dumps({**row, "ended": time.time()}, separators=(",", ":")) + "\n")
                self.output.flush()

    def abandon(self) -> None:
        """Record the transaction that has no answer, if there is one."""
        row = self._open
        if row is not None:
            self._record({**row, "outcome": "unknown", "error": "no answer"})


def _first_line(error: Exception) -> str:
    """Return a message in one line, without the addresses that psycopg2 lists after it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def main(path: str) -> None:
    """Run the clients of a specification until SIGTERM."""
    import psycopg2  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - a test needs no server

    given = json.loads(Path(path).read_text(encoding="utf-8"))
    folder = Path(given["folder"])
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    clients = []
    for row in given["clients"]:
        specification = Specification(**row)
        output = (folder / f"{specification.number}.jsonl").open("w", encoding="utf-8")
        clients.append(Client(specification, psycopg2.connect, psycopg2.Error, output))
    threads = [threading.Thread(target=client.run, args=(ended,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    ended.wait()
    deadline = time.monotonic() + GRACE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for client in clients:
        client.abandon()
    os._exit(0)  # threads that wait for an answer cannot be interrupted


if __name__ == "__main__":
    main(sys.argv[1])
