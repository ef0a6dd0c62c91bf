"""The neighbour advertisement that announces the move of an IPv6 address."""

from __future__ import annotations

import ipaddress

import pytest

from pgpool_cluster.cli import hook
from pgpool_cluster.ground.errors import ServerError, UsageError
from pgpool_cluster.machine.neighbours import advertisement, announce

ADDRESS = ipaddress.IPv6Address("fd00::50")


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
