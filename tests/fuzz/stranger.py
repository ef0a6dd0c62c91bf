"""Send malformed messages to pgpool-II, and print their number.

    stranger.py KIND SECONDS SEED

KIND is `client` (9999/tcp), `watchdog` (9000/tcp) or `heartbeat` (9694/udp). The same SEED gives the same messages.
Requires only the standard library. Exit status 1: pgpool-II no longer accepts connections.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable

Message = bytearray
HOST = "127.0.0.1"
PORTS = {"client": 9999, "watchdog": 9000, "heartbeat": 9694}
USERS = ("scram", "password", "md5", "cert", "ldap", "pam", "nobody")
"""pool_hba.conf has a line with the method of the same name for each user except the last."""
LONGEST = 12000
NUMBERS = (0, 1, 3, 4, 5, 7, 8, 12, 127, 255, 1024, 1025, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4)
ANSWER_SECONDS = 0.05
GONE_SECONDS = 30.0


def startup(user: str, *options: str) -> Message:
    words = ("user", user, "database", "app", *options)
    text = struct.pack("!I", 3 << 16) + b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return Message(struct.pack("!I", len(text) + 4) + text)


def old_startup(user: str) -> Message:
    text = struct.pack("!I", 2 << 16) + b"app".ljust(64, b"\0") + user.encode().ljust(32, b"\0") + bytes(192)
    return Message(struct.pack("!I", len(text) + 4) + text)


def request(code: int, rest: bytes = b"") -> Message:
    return Message(struct.pack("!II", 8 + len(rest), (1234 << 16) + code) + rest)


def password(text: bytes) -> Message:
    return Message(b"p" + struct.pack("!I", len(text) + 4) + text)


def scram(chance: random.Random) -> Message:
    first = b"n,,n=,r=" + bytes(chance.choices(b"abcdef0123456789+/", k=chance.choice((0, 18, 24, 500))))
    return password(b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)


def as_client(chance: random.Random) -> list[Message]:
    """Return the messages of a client from its connection to its login, in order."""
    user = chance.choice(USERS)
    begin = [startup(user, "application_name", "x", "search_path", "y"), startup(user), old_startup(user)]
    messages = [chance.choice(begin)]
    if chance.random() < 0.4:
        messages.insert(0, chance.choice([request(5679), request(5680), request(5678, struct.pack("!II", 7, 8))]))
    messages.append(scram(chance) if chance.random() < 0.5 else password(b"secret\0"))
    if chance.random() < 0.3:
        messages.append(password(b"c=biws,r=x,p=" + b"A" * 44))
    return messages


def node(chance: random.Random) -> dict[str, object]:
    """Return the data of a watchdog node, authenticated with a key that the cluster does not have."""
    return {
        "State": chance.randint(-5, 20), "WdPort": 9000, "PgpoolPort": 9999, "WdPriority": 1,
        "PgpoolNodeId": chance.randint(0, 3), "NodeName": "pg2" * chance.choice((1, 100)), "HostName": HOST, "VIP": "",
        "DATA_VERSION_MAJOR": "1", "DATA_VERSION_MINOR": "2", "PGPOOL_VERSION": "4" * chance.choice((1, 300)),
        "StartupTimeSecs": 1, "SecondsSinceStartup": 1, "SecondsSinceCurrentState": 1, "Escalated": False,
        "QuorumStatus": 1, "AliveNodeCount": 1, "authkey": "0" * chance.choice((0, 64, 128)),
    }  # fmt: skip


def as_watchdog(chance: random.Random) -> list[Message]:
    told = node(chance)
    for key in chance.sample(list(told), chance.choice((0, 0, 1, 3))):
        del told[key]
    text = json.dumps(told).encode()
    kinds = b"A" * 8 + b"BCDEGIJMNRSX#"
    return [
        Message(bytes([chance.choice(kinds)]) + struct.pack("!II", chance.randint(0, 9), len(text)) + text)
        for _ in range(chance.randint(1, 3))
    ]


def as_heartbeat(chance: random.Random) -> list[Message]:
    """Return a packet of 352 bytes with the layout of WdHbPacket in wd_heartbeat.c, or a malformed one."""
    if chance.random() < 0.2:
        return [Message(b"x" * chance.choice((0, 1, 64, 254, 351, 352, 353, 1000)))]
    name = b"pg2".ljust(254, chance.choice((b"\0", b"x")))
    packet = struct.pack("=254s2xi4xqq", name, 9999, int(time.time()), chance.choice((0, -1, 2**62)))
    return [Message((packet + b"0" * chance.choice((64, 65))).ljust(352, chance.choice((b"\0", b"x"))))]


def spoil(messages: list[Message], chance: random.Random) -> list[Message]:
    """Return the messages with some changed, some omitted, and some repeated."""
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        if messages:
            chance.choice(WAYS)(chance.choice(messages), chance)
    if chance.random() < 0.1 and messages:
        messages.pop(chance.randrange(len(messages)))
    if chance.random() < 0.1 and messages:
        messages.append(Message(chance.choice(messages)))
    return messages


def _flip(message: Message, chance: random.Random) -> None:
    if message:
        message[chance.randrange(len(message))] ^= 1 << chance.randrange(8)


def _number(message: Message, chance: random.Random) -> None:
    if len(message) >= 4:
        place = chance.choice((0, 1, 4, 5, chance.randrange(len(message) - 3)))
        place = min(place, len(message) - 4)
        message[place : place + 4] = struct.pack("!I", chance.choice(NUMBERS))


def _cut(message: Message, chance: random.Random) -> None:
    del message[chance.randrange(len(message) + 1) :]


def _longer(message: Message, chance: random.Random) -> None:
    more = chance.choice((1, 8, 100, 1000, LONGEST))
    place = chance.randrange(len(message) + 1)
    message[place:place] = chance.choice((b"\0", b"x", b"%n%s", b"\\u0000", b'{"a":')) * more


def _whole(message: Message, chance: random.Random) -> None:
    """Make a message longer, with a matching length field."""
    _longer(message, chance)
    del message[LONGEST:]
    if len(message) >= 5:
        if message[0] == 0:
            message[0:4] = struct.pack("!I", len(message))
        else:
            message[1:5] = struct.pack("!I", len(message) - 1)


def _no_end(message: Message, chance: random.Random) -> None:
    for place, byte in enumerate(message[8:], 8):
        if byte == 0:
            message[place] = chance.randrange(1, 256)


WAYS: tuple[Callable[[Message, random.Random], None], ...] = (_flip, _number, _cut, _longer, _whole, _no_end)
MAKERS = {"client": as_client, "watchdog": as_watchdog, "heartbeat": as_heartbeat}


def talk(kind: str, messages: list[Message], chance: random.Random) -> None:
    """Send messages over one connection, and read answers in between."""
    with socket.create_connection((HOST, PORTS[kind]), timeout=10) as plain:
        connection: socket.socket = plain
        if chance.random() < 0.1:  # the connection is reset at its end
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for message in messages:
            connection.sendall(message)
            if chance.random() < 0.7:
                connection.settimeout(ANSWER_SECONDS)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(4096) == b"S" and chance.random() < 0.7:
                        connection = _secured(plain)
                connection.settimeout(10)


def _secured(plain: socket.socket) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain.settimeout(10)
    return context.wrap_socket(plain)


def send(kind: str, messages: list[Message], chance: random.Random) -> None:
    if kind != "heartbeat":
        talk(kind, messages, chance)
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as away:
        for message in messages:
            away.sendto(bytes(message[:60000]), (HOST, PORTS[kind]))


def main(kind: str, seconds: float, seed: int) -> int:
    """Send for `seconds`; return the exit status."""
    chance = random.Random(seed)
    began = reached = time.monotonic()
    sent = 0
    while time.monotonic() < began + seconds:
        messages = spoil(MAKERS[kind](chance), chance)
        try:
            send(kind, messages, chance)
            reached = time.monotonic()
        except ConnectionRefusedError:
            if time.monotonic() > reached + GONE_SECONDS:
                print(f"{kind}: pgpool-II does not answer after {sent} messages of seed {seed}")
                return 1
            time.sleep(0.1)
        except OSError:
            reached = time.monotonic()  # pgpool-II closed the connection
        sent += len(messages)
    print(f"{kind}: {sent} messages in {seconds:g} s, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
