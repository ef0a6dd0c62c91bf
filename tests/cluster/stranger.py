"""A stranger: listens where a node listened, with a certificate of its own, and asks for what would help it to log in.

Runs on a host, as `stranger.py LOG`; writes a line for each connection: the port, and what came in, in hexadecimal. On
the ports of PostgreSQL and pgpool-II it asks for a password in clear text, for MD5 or for SCRAM, with TLS or without,
by turns.
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
    """Talk to a client, and return everything that it sent."""
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
    """Answer every host that comes to a port."""
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
