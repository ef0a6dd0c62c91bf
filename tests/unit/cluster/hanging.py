"""A stand-in for PostgreSQL that accepts connections and, on request, answers nothing or stops answering."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

PORT = 5432
_PARAMETERS = {"server_version": "15.18", "client_encoding": "UTF8", "standard_conforming_strings": "on",
               "DateStyle": "ISO, MDY"}  # fmt: skip


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


GREETING = (
    message(b"R", struct.pack(">I", 0))
    + b"".join(message(b"S", f"{name}\0{value}\0".encode()) for name, value in _PARAMETERS.items())
    + message(b"Z", b"I")
)
ROW = (
    message(b"T", struct.pack(">H", 1) + b"x\0" + struct.pack(">IHIhIH", 0, 0, 23, 4, 0xFFFFFFFF, 0))
    + message(b"D", struct.pack(">HI", 1, 1) + b"1")
    + message(b"C", b"SELECT 1\0")
    + message(b"Z", b"I")
)


class HangingServer:
    """`greets`: clients can log in. `answers`: once set, each statement gets one row, 1, as its answer."""

    def __init__(self) -> None:
        self.greets = True
        self.answers = threading.Event()
        self.connections = 0
        self.statements = 0

    def serve(self, asking: socket.socket) -> None:
        with asking, contextlib.suppress(OSError):
            self.connections += 1
            asking.recv(4096)
            while not self.greets:
                if not asking.recv(4096):
                    return
            asking.sendall(GREETING)
            while asking.recv(4096)[:1] == b"Q":
                self.statements += 1
                self.answers.wait(30)
                asking.sendall(ROW)


@contextlib.contextmanager
def hanging_server(folder: Path) -> Iterator[HangingServer]:
    """Listen on the socket that libpq uses for port 5432 if `folder` is the socket folder."""
    server = HangingServer()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / f".s.PGSQL.{PORT}"))
        listening.listen()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asking, _ = listening.accept()
                    threading.Thread(target=server.serve, args=(asking,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server
        finally:
            server.answers.set()
            listening.shutdown(socket.SHUT_RDWR)
