#!/usr/bin/python3
"""Delay a host's traffic to other nodes: `relay.py ADDRESS…`, as root, until SIGTERM.

The kernel of the tests has no netem. nftables redirects new TCP connections to these addresses, and the agents'
heartbeats, to this program, which passes them on later. It runs alone on the host, with Debian's Python.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

DELAY_SECONDS = 0.1
"""The delay in each direction: a round trip takes 200 ms longer."""
MARK = 0x51
"""The mark of this program's own packets, which are not redirected."""
TCP_PORT = 9790
HEARTBEATS = (9694, 9695)
"""UDP ports of pgpool-II's watchdog and of the agents."""
BYTES = 65536
SO_ORIGINAL_DST = 80
"""From linux/netfilter_ipv4.h."""
TABLE = "relay"


def datagrams(peers: Sequence[str]) -> dict[int, tuple[str, int]]:
    """Return the destination for each local UDP port: a redirected datagram does not show its own."""
    places = [(peer, port) for peer in peers for port in HEARTBEATS]
    return dict(enumerate(places, start=TCP_PORT + 1))


def rules(peers: Sequence[str]) -> str:
    """Return the rules of nftables. Raises ValueError for text that is not an IPv4 address."""
    addresses = [str(ipaddress.IPv4Address(peer)) for peer in peers]
    lines = [f"meta mark {MARK} return"]
    lines += [
        f"ip daddr {peer} udp dport {port} redirect to :{local}" for local, (peer, port) in datagrams(addresses).items()
    ]
    lines.append(f"ip daddr {{ {', '.join(addresses)} }} meta l4proto tcp redirect to :{TCP_PORT}")
    chain = "\n".join(["type nat hook output priority -100;", *lines])
    return f"table ip {TABLE} {{\nchain output {{\n{chain}\n}}\n}}\n"


def original(connection: socket.socket) -> tuple[str, int]:
    """Return the address and port to which a redirected connection was made."""
    port, address = struct.unpack("!2xH4s8x", connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return socket.inet_ntoa(address), port


def marked(kind: socket.SocketKind) -> socket.socket:
    """Return a socket whose packets are not redirected."""
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    made.setblocking(False)
    return made


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on each piece of a stream after the delay, in order, and then its end."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1000)

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    delivery = asyncio.create_task(deliver())
    try:
        while piece := await reader.read(BYTES):
            await pieces.put((loop.time() + DELAY_SECONDS, piece))
    except OSError:
        delivery.cancel()
        writer.close()
    else:
        await pieces.put((loop.time() + DELAY_SECONDS, b""))


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect a redirected connection to its destination; close it if that refuses."""
    own = marked(socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(own, original(writer.get_extra_info("socket")))
        there, back = await asyncio.open_connection(sock=own)
    except OSError:
        own.close()
        writer.close()
        return
    await asyncio.gather(passed_on(reader, back), passed_on(there, writer))


class Heartbeats(asyncio.DatagramProtocol):
    """Passes datagrams on to one destination."""

    def __init__(self, sender: socket.socket, destination: tuple[str, int]) -> None:
        self.sender, self.destination = sender, destination

    def datagram_received(self, data: bytes, addr: object) -> None:
        asyncio.get_running_loop().call_later(DELAY_SECONDS, self._send, data)

    def _send(self, data: bytes) -> None:
        self.sender.sendto(data, self.destination)

    def error_received(self, exc: Exception) -> None:
        """Ignore it: datagrams may be lost."""


async def main(peers: Sequence[str]) -> None:
    """Redirect and delay until SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await asyncio.start_server(connected, "0.0.0.0", TCP_PORT)  # noqa: S104 - redirected packets arrive at any address
    sender = marked(socket.SOCK_DGRAM)
    for local, destination in datagrams(peers).items():
        await loop.create_datagram_endpoint(
            lambda destination=destination: Heartbeats(sender, destination),  # type: ignore[misc]
            local_addr=("0.0.0.0", local),  # noqa: S104
        )
    subprocess.run(["nft", "-f", "-"], input=rules(peers).encode(), check=True)
    try:
        await ended.wait()
    finally:
        subprocess.run(["nft", "delete", "table", "ip", TABLE], check=False)


if __name__ == "__main__":
    asyncio.run(main([word.strip(",") for word in sys.argv[1:]]))
