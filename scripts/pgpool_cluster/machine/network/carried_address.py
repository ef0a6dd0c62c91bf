"""Put an additional address up on an interface, announce it on the link, and remove it. Only root can do so."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...ground import log, plain, programs
from ...ground.errors import ServerError
from ...ground.waiting import poll
from . import gratuitous_arp, neighbours

_IP_SECONDS = 2.0
"""Time limit for one run of ip(8) or ss(8)."""
_ANSWER_SECONDS = 0.2
"""Time for another host to answer for the address."""
_ANSWER_PAUSE_SECONDS = 0.04
_DISCARD_PORT = 9


@dataclass(frozen=True, slots=True)
class Placement:
    """An address on an interface. `alone`: without a route to its network, because the machine already has one."""

    address: plain.Interface
    interface: str
    alone: bool

    @property
    def words(self) -> list[str]:
        """The address, its interface and its flags for ip(8).

        The kernel does not choose the address as the source of a connection to a node.
        With `alone`, it is no address of the network: otherwise it would be a secondary address of the machine's own
        one, and would take its place once that one is renewed, as by a DHCP client. In IPv4, scope `host` excludes it
        as a source. In IPv6, `preferred_lft 0` does.
        """
        length = self.address.max_prefixlen if self.alone else self.address.network.prefixlen
        place = [f"{self.address.ip}/{length}", "dev", self.interface]
        if self.address.version == 6:
            return [*place, "nodad", "preferred_lft", "0"]
        return [*place, "scope", "host"] if self.alone else place


def put_up(placement: Placement) -> None:
    """Put the address up, or do nothing if it is there; raises ServerError."""
    programs.run(["ip", "address", "replace", *placement.words], seconds=_IP_SECONDS)


def announce(placement: Placement) -> None:
    """Tell the hosts on the link that the address is here now, within a quarter of a second; raises ServerError."""
    address = placement.address.ip
    if isinstance(address, ipaddress.IPv6Address):
        neighbours.announce(address, placement.interface)
    else:
        gratuitous_arp.announce(address, placement.interface)


def remove(address: plain.Address) -> None:
    """Remove the address from every interface that has it; raises ServerError."""
    for interface, length in _places(address):
        programs.run(["ip", "address", "del", f"{address}/{length}", "dev", interface], seconds=_IP_SECONDS)


def _places(address: plain.Address) -> list[tuple[str, int]]:
    """Return the interfaces that have the address, and its prefix lengths there."""
    listed: list[dict[str, Any]] = json.loads(programs.run(["ip", "-json", "address"], seconds=_IP_SECONDS))
    return [
        (str(link["ifname"]), int(entry["prefixlen"]))
        for link in listed
        for entry in link.get("addr_info", [])
        if entry.get("local") == str(address)
    ]


def end_connections(address: plain.Address, ports: Iterable[int]) -> None:
    """Reset the connections of clients to these ports of the address. Otherwise they would wait until TCP gives up."""
    host = f"[{address}]" if address.version == 6 else str(address)
    either = " or ".join(f"sport = :{port}" for port in ports)
    try:
        programs.run(["ss", "--kill", "--tcp", f"src {host} and ( {either} )"], seconds=_IP_SECONDS)
    except ServerError as error:
        log.warning(f"the connections to {address} were not ended: {error.message}")


def other_host(placement: Placement) -> str:
    """Return the link-layer address of the host that answers for the address, "" if none does; raises ServerError.

    The address must not be up here.
    """
    address, place = str(placement.address.ip), ["to", str(placement.address.ip), "dev", placement.interface]
    programs.attempt(["ip", "neighbour", "flush", *place], seconds=_IP_SECONDS)
    _send_something(placement.address.ip, placement.interface)

    def answered() -> str:
        rows = json.loads(programs.run(["ip", "-json", "neighbour", "show", *place], seconds=_IP_SECONDS) or "[]")
        return next((str(row["lladdr"]) for row in rows if row.get("dst") == address and "lladdr" in row), "")

    return poll(answered, seconds=_ANSWER_SECONDS, pause=_ANSWER_PAUSE_SECONDS)


def _send_something(address: plain.Address, interface: str) -> None:
    """Send a datagram to the address, for which the kernel has to ask on the link who has it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        asking.sendto(b"", (str(address), _DISCARD_PORT))
