"""The neighbour advertisement that announces the move of an IPv6 address."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from pgpool_cluster.cli import hook
from pgpool_cluster.ground.errors import ServerError, UsageError
from pgpool_cluster.machine.network import neighbours
from pgpool_cluster.machine.network.neighbours import advertisement, announce

ADDRESS = ipaddress.IPv6Address("fd00::50")
LINK_LAYER = bytes.fromhex("0242c6120001")


def test_it_is_an_unsolicited_advertisement_that_overrides() -> None:
    """RFC 4861, 4.4 and 4.6.1."""
    found = advertisement(ADDRESS, bytes.fromhex("0242c6120001"))
    assert found[:8] == bytes([136, 0, 0, 0, 0x20, 0, 0, 0])
    assert found[8:24] == ADDRESS.packed
    assert found[24:] == bytes([2, 1]) + bytes.fromhex("0242c6120001")


def test_a_longer_link_layer_address_fills_whole_units() -> None:
    option = advertisement(ADDRESS, bytes(range(20)))[24:]
    assert (len(option), option[1]) == (24, 3)


def test_a_missing_interface_is_reported() -> None:
    with pytest.raises(ServerError, match="cannot announce fd00::50 on no-such"):
        announce(ADDRESS, "no-such")


@pytest.mark.parametrize("words", [[], ["fd00::50"], ["10.0.0.50", "eth0"], ["pg1", "eth0"]])
def test_the_hook_accepts_an_ipv6_address_and_an_interface(words: list[str]) -> None:
    with pytest.raises(UsageError):
        hook.run(["announce-address", *words])


class Sockets:
    """The socket module of a machine with eth1. `failing`: the call that the kernel refuses."""

    AF_PACKET, SOCK_DGRAM, AF_INET6, SOCK_RAW = socket.AF_PACKET, socket.SOCK_DGRAM, socket.AF_INET6, socket.SOCK_RAW
    IPPROTO_ICMPV6, IPPROTO_IPV6 = socket.IPPROTO_ICMPV6, socket.IPPROTO_IPV6
    IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF = socket.IPV6_MULTICAST_HOPS, socket.IPV6_MULTICAST_IF

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.options: dict[int, int] = {}
        self.sent: list[tuple[bytes, tuple[object, ...]]] = []
        self.bound: list[tuple[object, ...]] = []
        self.open = 0
        self.pauses: list[float] = []

    def if_nametoindex(self, name: str) -> int:
        assert name == "eth1"
        return 7

    def socket(self, *_: int) -> Sockets:
        self._refuse("socket")
        return self

    def __enter__(self) -> Sockets:
        self.open += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.open -= 1

    def bind(self, place: tuple[object, ...]) -> None:
        self._refuse("bind")
        self.bound.append(place)

    def getsockname(self) -> tuple[object, ...]:
        return ("eth1", 0, 0, 1, LINK_LAYER)

    def setsockopt(self, _: int, option: int, value: int) -> None:
        self.options[option] = value

    def sendto(self, data: bytes, to: tuple[object, ...]) -> None:
        self._refuse("sendto")
        self.sent.append((data, to))

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _refuse(self, call: str) -> None:
        if call == self.failing:
            raise PermissionError(1, "Operation not permitted")


def on_machine(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> Sockets:
    found = Sockets(failing)
    monkeypatch.setattr(neighbours, "socket", found)
    monkeypatch.setattr(neighbours, "time", found)
    return found


def test_the_address_is_announced_three_times_to_all_nodes_on_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers discard an advertisement with another hop limit than 255 (RFC 4861, 7.1.2)."""
    found = on_machine(monkeypatch)
    announce(ADDRESS, "eth1")
    assert found.sent == [(advertisement(ADDRESS, LINK_LAYER), ("ff02::1", 0, 0, 7))] * 3
    assert found.options == {socket.IPV6_MULTICAST_HOPS: 255, socket.IPV6_MULTICAST_IF: 7}
    assert found.bound == [("eth1", 0), ("fd00::50", 0)]
    assert 0 < sum(found.pauses) < 0.25, "pgpool-II waits for this"
    assert found.pauses[0] == 0


@pytest.mark.parametrize("failing", ["socket", "bind", "sendto"])
def test_a_refused_announcement_is_reported_with_a_hint(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_machine(monkeypatch, failing)
    with pytest.raises(ServerError, match=r"cannot announce fd00::50 on eth1: .*Operation not permitted") as caught:
        announce(ADDRESS, "eth1")
    assert caught.value.hint == "ip -6 address show dev eth1 shows whether the address is there"
    assert found.open == 0
