"""Announce on a link that an IPv6 address has moved here, as arping(8) does for IPv4.

This sends an unsolicited neighbour advertisement (RFC 4861, 7.2.6). No tool of Debian's base system sends one, and the
kernel does so only with net.ipv6.conf.*.ndisc_notify. pgpool2.service has the required capability, CAP_NET_RAW.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time

from ...ground.errors import ServerError

_ALL_NODES = "ff02::1"
_ADVERTISEMENT_TYPE = 136
_OVERRIDE = 0x20000000
"""Flag: neighbours replace the link-layer address that they have cached."""
_TARGET_LINK_LAYER = 2
_HOP_LIMIT = 255
"""Receivers discard an advertisement with any other hop limit."""
_ADVERTISEMENTS = 3
_ADVERTISEMENT_PAUSE_SECONDS = 0.1


def advertisement(address: ipaddress.IPv6Address, link_layer: bytes) -> bytes:
    """Return the ICMPv6 message; the kernel adds the checksum."""
    units = (2 + len(link_layer) + 7) // 8
    option = struct.pack("!BB", _TARGET_LINK_LAYER, units) + link_layer
    return struct.pack("!BBHI", _ADVERTISEMENT_TYPE, 0, 0, _OVERRIDE) + address.packed + option.ljust(8 * units, b"\0")


def announce(address: ipaddress.IPv6Address, interface: str) -> None:
    """Send the advertisement three times within a quarter of a second; raises ServerError."""
    try:
        number = socket.if_nametoindex(interface)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
            link.bind((interface, 0))
            link_layer = bytes(link.getsockname()[4])
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, number)
            raw.bind((str(address), 0))
            for turn in range(_ADVERTISEMENTS):
                time.sleep(_ADVERTISEMENT_PAUSE_SECONDS if turn else 0)
                raw.sendto(advertisement(address, link_layer), (_ALL_NODES, 0, 0, number))
    except OSError as error:
        hint = f"ip -6 address show dev {interface} shows whether the address is there"
        raise ServerError(f"cannot announce {address} on {interface}: {error}", hint=hint) from error
