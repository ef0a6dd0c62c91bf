"""A client that uses libpq directly: psql sends only simple queries, and never reports the result of a cancel.

Runs on a host as `extended.py CONNINFO STORY...`, prints one line per story, and always ends after 20 s.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable

libpq, libssl = ctypes.CDLL("libpq.so.5"), ctypes.CDLL("libssl.so.3")
CONNECTION_OK, COPY_OUT, COPY_IN = 0, 3, 4
for function in ("PQconnectdb", "PQexec", "PQexecParams", "PQprepare", "PQexecPrepared"):
    getattr(libpq, function).restype = ctypes.c_void_p
for function in ("PQdescribePrepared", "PQdescribePortal", "PQgetResult", "PQgetCancel", "PQsslStruct"):
    getattr(libpq, function).restype = ctypes.c_void_p
for function in ("PQerrorMessage", "PQresStatus", "PQgetvalue", "PQcmdTuples", "PQresultErrorMessage"):
    getattr(libpq, function).restype = ctypes.c_char_p


class Connection:
    """A connection to pgpool-II."""

    def __init__(self, conninfo: str) -> None:
        self._libpq = ctypes.c_void_p(libpq.PQconnectdb(conninfo.encode()))
        if libpq.PQstatus(self._libpq) != CONNECTION_OK:
            sys.exit(self._error())

    def _error(self) -> str:
        return str(libpq.PQerrorMessage(self._libpq).decode()).strip()

    def result(self, got: int | None) -> str:
        """Return the result of a statement: its first value, its number of rows, or the first line of its error."""
        result = ctypes.c_void_p(got)
        status = libpq.PQresultStatus(result)
        if status in (COPY_IN, COPY_OUT):
            return str(libpq.PQresStatus(status).decode())
        error = libpq.PQresultErrorMessage(result).decode().strip()
        if error:
            return str(error.splitlines()[0])
        if libpq.PQntuples(result):
            return str(libpq.PQgetvalue(result, 0, 0).decode())
        return str(libpq.PQcmdTuples(result).decode()) or "done"

    def simple(self, sql: str) -> str:
        """Run statements with the simple protocol."""
        return self.result(libpq.PQexec(self._libpq, sql.encode()))

    def extended(self, sql: str) -> str:
        """Run an unnamed statement with the extended protocol."""
        return self.result(libpq.PQexecParams(self._libpq, sql.encode(), 0, None, None, None, None, 0))

    def prepared(self, sql: str, name: str = "named") -> str:
        """Prepare a statement and run it."""
        made = self.result(libpq.PQprepare(self._libpq, name.encode(), sql.encode(), 0, None))
        return made if made != "done" else self.again(name)

    def again(self, name: str) -> str:
        """Run a prepared statement."""
        return self.result(libpq.PQexecPrepared(self._libpq, name.encode(), 0, None, None, None, 0))

    def describe(self, name: str, kind: str = "Prepared") -> str:
        """Request the description of a prepared statement or of a portal."""
        return self.result(getattr(libpq, f"PQdescribe{kind}")(self._libpq, name.encode()))

    def rest(self) -> list[str]:
        """Return the remaining results of the running statement."""
        found = []
        while got := libpq.PQgetResult(self._libpq):
            found.append(self.result(got))
        return found

    def put(self, data: bytes) -> None:
        """Send rows of a COPY."""
        if libpq.PQputCopyData(self._libpq, data, len(data)) != 1:
            sys.exit(self._error())

    def end(self, error: bytes | None = None) -> list[str]:
        """End a COPY, with an error of the client if one is given, and return its result."""
        if libpq.PQputCopyEnd(self._libpq, error) != 1:
            sys.exit(self._error())
        return self.rest()

    def at_once(self, *messages: tuple[str, bytes]) -> str:
        """Send messages in one write, bypassing libpq; return the kinds of the answers up to ReadyForQuery."""
        tls = ctypes.c_void_p(libpq.PQsslStruct(self._libpq, b"OpenSSL"))
        os.set_blocking(libpq.PQsocket(self._libpq), True)
        sent = b"".join(kind.encode() + struct.pack(">I", len(body) + 4) + body for kind, body in messages)
        libssl.SSL_write(tls, sent, len(sent))
        buffer, came, kinds = ctypes.create_string_buffer(4096), b"", ""
        while not kinds.endswith("Z"):
            if (length := libssl.SSL_read(tls, buffer, len(buffer))) <= 0:
                return f"{kinds} end"
            came += buffer.raw[:length]
            while len(came) > 4 and len(came) > (size := struct.unpack(">I", came[1:5])[0]):
                kinds += chr(came[0])
                came = came[size + 1 :]
        os.set_blocking(libpq.PQsocket(self._libpq), False)
        return kinds

    def cancel(self) -> str:
        """Cancel the running statement, over TLS if libpq supports that (17 and newer); return the error."""
        if not hasattr(libpq, "PQcancelBlocking"):
            error = ctypes.create_string_buffer(256)
            libpq.PQcancel(ctypes.c_void_p(libpq.PQgetCancel(self._libpq)), error, len(error))
            return str(error.value.decode())
        libpq.PQcancelCreate.restype = ctypes.c_void_p
        libpq.PQcancelErrorMessage.restype = ctypes.c_char_p
        request = ctypes.c_void_p(libpq.PQcancelCreate(self._libpq))
        libpq.PQcancelBlocking(request)
        return str(libpq.PQcancelErrorMessage(request).decode()).strip()

    def all_rows(self) -> bytes:
        """Read the rows of a COPY ... TO STDOUT."""
        rows, buffer = b"", ctypes.c_char_p()
        while (length := libpq.PQgetCopyData(self._libpq, ctypes.byref(buffer), 0)) > 0:
            rows += ctypes.string_at(buffer, length)
        return rows


def copy(connection: Connection) -> str:
    """Copy rows in, twice; then wrong rows, an aborted copy, and rows within a transaction."""
    copy_in, count = "COPY copied FROM STDIN", "/*NO LOAD BALANCE*/ SELECT count(*) FROM copied"
    said = [connection.extended("COPY missing FROM STDIN")]
    for rows in (b"1\n", b"2\n" * 100000, b"wrong\n", b"", None):
        said.append(connection.extended(copy_in))
        if rows:
            connection.put(rows)
        said += connection.end(b"enough" if rows is None else None)
    said.append(connection.extended(count))
    for sql in ("BEGIN", copy_in):
        said.append(connection.extended(sql))
    connection.put(b"3\n")
    said += [*connection.end(), connection.prepared(count), connection.extended("COMMIT")]
    return "; ".join([*said, connection.simple(count)])


def copy_out(connection: Connection) -> str:
    """Copy rows out, twice; then with a statement that fails, and with one that is canceled."""
    said = []
    for rows in (*["generate_series(1, 3)"] * 2, "1 / (2 - x) FROM generate_series(1, 3) x", "pg_sleep(15)"):
        if "sleep" in rows:
            threading.Timer(1, connection.cancel).start()
        said.append(connection.extended(f"COPY (SELECT {rows}) TO STDOUT"))
        said += [str(connection.all_rows().split()), *connection.rest(), connection.extended("SELECT 7")]
    return "; ".join(said)


def copy_at_once(connection: Connection) -> str:
    """Copy rows in without waiting for the answer; also without a table, and after a failed statement."""

    def statement(sql: str) -> list[tuple[str, bytes]]:
        return [("P", b"\0" + sql.encode() + bytes(3)), ("B", bytes(8)), ("E", bytes(5))]

    rows, said = [("d", b"8\n"), ("d", b"9\n"), ("c", b"")], []
    for table in ("copied", "missing", "copied"):
        said.append(connection.at_once(*statement(f"COPY {table} FROM STDIN"), *rows, ("S", b"")))
    said.append(connection.at_once(*statement("SELECT 1 / 0"), *statement("COPY copied FROM STDIN"), ("S", b"")))
    return "; ".join([*said, connection.extended("SELECT 7")])


def abandon(connection: Connection) -> str:
    """Exit in the middle of a COPY without a message."""
    connection.extended("COPY copied FROM STDIN")
    connection.put(b"4\n")
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def describe(connection: Connection) -> str:
    """Query a missing table and continue; also within a transaction."""
    said = [connection.describe("unknown"), connection.describe("unknown", "Portal"), connection.extended("SELECT 7")]
    said += [connection.simple("BEGIN"), connection.describe("unknown"), connection.extended("SELECT 7")]
    said += [connection.simple("ROLLBACK"), connection.again("unknown"), connection.prepared("SELECT 8")]
    return "; ".join([*said, connection.describe("named"), connection.again("named")])


def discard(connection: Connection) -> str:
    """Discard plans, which keeps prepared statements; then discard all with the extended protocol, and continue."""
    said = [connection.prepared("SELECT 7"), connection.simple("DISCARD PLANS"), connection.again("named")]
    said += [connection.prepared("DISCARD PLANS", "plans"), connection.describe("named"), connection.again("named")]
    said += [connection.prepared("DISCARD ALL", "discard"), connection.again("named")]
    said += [connection.extended("DISCARD ALL"), connection.extended("SELECT 8"), connection.prepared("SELECT 9")]
    said += [connection.again("named"), connection.extended("DEALLOCATE ALL"), connection.simple("SELECT 1")]
    return "; ".join(said)


def cancel(connection: Connection) -> str:
    """Cancel a statement, and report its result and its duration in seconds."""
    said = []

    def asks() -> None:
        time.sleep(1)
        begun = time.monotonic()
        said.append(connection.cancel() or "no error")
        said.append(str(int(time.monotonic() - begun)))

    asking = threading.Thread(target=asks)
    asking.start()
    canceled = connection.simple("/*NO LOAD BALANCE*/ SELECT pg_sleep(15)")
    asking.join()
    return "; ".join([canceled, *said])


STORIES: dict[str, Callable[[Connection], str]] = {
    story.__name__: story for story in (copy, copy_out, copy_at_once, abandon, describe, discard, cancel)
}

if __name__ == "__main__":
    signal.alarm(20)
    for told in sys.argv[2:]:
        print(STORIES[told](Connection(sys.argv[1])), flush=True)
