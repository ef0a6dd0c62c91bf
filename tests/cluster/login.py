"""A client that logs in with hand-made packets, which no library would send.

Runs on a host as `login.py ADDRESS USER DATABASE STORY [PASSWORD]`, and prints the answers.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys

SSL_REQUEST = struct.pack(">II", 8, 80877103)
PROTOCOL = struct.pack(">I", 196608)


def encrypted(address: str) -> socket.socket:
    """Connect to pgpool-II with TLS."""
    plain = socket.create_connection((address, 9999), 10)
    plain.sendall(SSL_REQUEST)
    if plain.recv(1) != b"S":
        sys.exit("no TLS")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


def start(connection: socket.socket, options: bytes) -> None:
    """Send a start-up packet."""
    connection.sendall(struct.pack(">I", len(options) + 8) + PROTOCOL + options)


def answer(connection: socket.socket) -> str:
    """Return the kind of the first message received, or `end`."""
    return connection.recv(4096)[:1].decode() or "end"


def password(address: str, user: str, database: str) -> str:
    """Send a password, or its first letter, without a trailing NUL; return the kinds of the answers."""
    connection = encrypted(address)
    start(connection, f"user\0{user}\0database\0{database}\0\0".encode())
    asked = answer(connection)
    given = sys.argv[5].encode()
    connection.sendall(b"p" + struct.pack(">I", len(given) + 4) + given)
    return asked + answer(connection)


def two_gigabytes(address: str, _: str, database: str) -> str:
    """Log in as a user with LDAP authentication, by a packet that claims to have 2 GB."""
    connection = encrypted(address)
    start(connection, f"user\0nobody\0database\0{database}\0\0".encode())
    asked = answer(connection)
    connection.sendall(b"p" + struct.pack(">I", 0x7FFFFFFF) + b"x" * 100)
    return asked + answer(connection)


def short_response(address: str, user: str, database: str) -> str:
    """Choose SCRAM, and announce more bytes than follow; return the error."""
    connection = encrypted(address)
    start(connection, f"user\0{user}\0database\0{database}\0\0".encode())
    answer(connection)
    response = b"SCRAM-SHA-256\0" + struct.pack(">I", 100) + b"n,,n=,r=x"
    connection.sendall(b"p" + struct.pack(">I", len(response) + 4) + response)
    return "refused" if b"malformed SASLInitialResponse" in connection.recv(4096) else "taken"


def not_terminated(address: str, user: str, database: str) -> str:
    """Send options that do not end within the start-up packet, and return whether they were rejected."""
    connection = encrypted(address)
    start(connection, f"user\0{user}\0database\0{database}\0zz\0".encode() + b"y" * 9000)
    return "refused" if b"invalid layout" in connection.recv(4096) else "taken"


def failed_handshake(address: str, user: str, database: str) -> str:
    """Request TLS, abort the handshake, and continue unencrypted; return the kind of the answer."""
    connection = socket.create_connection((address, 9999), 10)
    connection.sendall(SSL_REQUEST)
    connection.recv(1)
    connection.sendall(bytes.fromhex("15030100020228"))
    try:
        start(connection, f"user\0{user}\0database\0{database}\0\0".encode())
        while (said := answer(connection)) == "\x15":
            pass  # an alert
    except OSError:
        return "end"
    return said


def direct_tls(address: str, *_: str) -> str:
    """Start with TLS at once, as with sslnegotiation=direct."""
    connection = socket.create_connection((address, 9999), 10)
    connection.sendall(bytes.fromhex("160301020001") + bytes(511))
    return "end" if not connection.recv(4096) else "answered"


if __name__ == "__main__":
    told = next(
        story
        for story in (password, two_gigabytes, short_response, not_terminated, failed_handshake, direct_tls)
        if story.__name__ == sys.argv[4]
    )
    print(told(*sys.argv[1:4]))
