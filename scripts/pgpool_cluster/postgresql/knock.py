"""Ask a server for an answer that it gives before any log-in: whether it supports TLS."""

from __future__ import annotations

import socket
import struct

from ..definition.cluster import Node

SSL_REQUEST = struct.pack(">II", 8, 80877103)
"""SSLRequest of PostgreSQL's protocol. The server answers with one byte, S or N."""


def answers(node: Node, seconds: float) -> bool:
    """Return whether the server of a node answers within this time.

    A server that a signal has stopped does not, although its host accepts the connection. One that is starting, or has
    no connection left, does.
    """
    try:
        with socket.create_connection((node.address, node.port), timeout=seconds) as connection:
            connection.sendall(SSL_REQUEST)
            return connection.recv(1) in (b"S", b"N")
    except OSError:
        return False
