"""A stranger that listens in a node's place, with its own certificate, and requests secrets for a login.

Runs on a host as `stranger.py LOG`; writes a line per connection: the port, and the received bytes in hexadecimal. On
the ports of PostgreSQL and pgpool-II, it requests a clear-text password, MD5 or SCRAM in turn, with or without
TLS.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path

CERTIFICATE = "/etc/ssl/certs/ssl-cert-snakeoil.pem"
KEY = "/etc/ssl/private/ssl-cert-snakeoil.key"
POSTGRESQL = (5432, 9999)
OTHERS = (9000, 9898)
CLEAR = b"R" + struct.pack(">II", 8, 3)
MD5 = b"R" + struct.pack(">II", 12, 5) + b"salt"
SCRAM = b"R" + struct.pack(">II", 24, 10) + b"SCRAM-SHA-256\0\0"
SSL_REQUEST = struct.pack(">II", 8, 80877103)
WAYS = list(itertools.product((True, False), (CLEAR, MD5, SCRAM)))
turns = itertools.count()


def heard(connection: socket.socket, port: int) -> bytes:
    """Talk to a client, and return all bytes that it sent."""
    if port not in POSTGRESQL:
        return connection.recv(4096)
    tls, question = WAYS[next(turns) % len(WAYS)]
    first = connection.recv(4096)
    if first == SSL_REQUEST:
        connection.sendall(b"S" if tls else b"N")
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE, KEY)
            connection = context.wrap_socket(connection, server_side=True)
        first = connection.recv(4096)
    if not first:
        return b""
    connection.sendall(question)
    return first + connection.recv(4096)


def serve(port: int, log: str) -> None:
    """Answer every host that connects to a port."""
    listener = socket.create_server(("", port), reuse_port=True)
    while True:
        connection, _ = listener.accept()
        connection.settimeout(3)
        got = b""
        with connection, contextlib.suppress(OSError):
            got = heard(connection, port)
        with Path(log).open("a", encoding="ascii") as stream:
            stream.write(f"{port} {got.hex()}\n")


if __name__ == "__main__":
    for each in (*POSTGRESQL, *OTHERS):
        threading.Thread(target=serve, args=(each, sys.argv[1])).start()
