"""Announce on a link that an IPv4 address has moved here, as arping(8) -U does, which takes a second."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time

from ...ground.errors import ServerError

_ARP = 0x0806
"""The type of an ARP packet (ETH_P_ARP)."""
_IPV4 = 0x0800
_REQUEST = 1
_ANNOUNCEMENTS = 3
_ANNOUNCEMENT_PAUSE_SECONDS = 0.1


def announcement(address: ipaddress.IPv4Address, link_layer: bytes, hardware: int = 1) -> bytes:
    """Return the ARP announcement (RFC 5227, 2.3): a request whose sender and target address are both `address`.

    `hardware` is the type of the link, 1 for Ethernet.
    """
    head = struct.pack("!HHBBH", hardware, _IPV4, len(link_layer), len(address.packed), _REQUEST)
    return head + link_layer + address.packed + bytes(len(link_layer)) + address.packed


def announce(address: ipaddress.IPv4Address, interface: str) -> None:
    """Send the announcement three times within a quarter of a second; raises ServerError."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
            link.bind((interface, 0))
            hardware, own = link.getsockname()[3:5]
            everybody = b"\xff" * len(own)
            for turn in range(_ANNOUNCEMENTS):
                time.sleep(_ANNOUNCEMENT_PAUSE_SECONDS if turn else 0)
                link.sendto(announcement(address, bytes(own), hardware), (interface, _ARP, 0, 0, everybody))
    except OSError as error:
        hint = f"ip address show dev {interface} shows whether the address is there"
        raise ServerError(f"cannot announce {address} on {interface}: {error}", hint=hint) from error
