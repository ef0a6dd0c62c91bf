"""The relay's rules redirect each peer's connections and heartbeats, and only those."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from tests.drill.relay import DELAY_SECONDS, MARK, TCP_PORT, datagrams, passed_on, rules

PEERS = ("198.18.0.10", "198.18.0.11")


def test_each_heartbeat_has_a_port_of_its_own() -> None:
    found = datagrams(PEERS)
    assert len(found) == len(set(found.values())) == 4
    assert TCP_PORT not in found
    text = rules(PEERS)
    for local, (peer, port) in found.items():
        assert f"ip daddr {peer} udp dport {port} redirect to :{local}\n" in text


def test_the_relays_own_packets_pass_first() -> None:
    lines = rules(PEERS).splitlines()
    assert lines[3] == f"meta mark {MARK} return"
    assert f"ip daddr {{ 198.18.0.10, 198.18.0.11 }} meta l4proto tcp redirect to :{TCP_PORT}" in lines


@pytest.mark.parametrize("peer", ["pg1", "fd00::1", "198.18.0.10; flush ruleset"])
def test_only_ipv4_addresses_become_rules(peer: str) -> None:
    with pytest.raises(ipaddress.AddressValueError):
        rules([peer])


def test_pieces_of_a_stream_arrive_later_and_in_order() -> None:
    async def story() -> tuple[bytes, float]:
        arrived = asyncio.StreamReader()

        async def receive(reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            arrived.feed_data(await reader.read())
            arrived.feed_eof()
            back.close()
            await back.wait_closed()

        server = await asyncio.start_server(receive, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        source = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        began = loop.time()
        passing = asyncio.create_task(passed_on(source, writer))
        for piece in (b"one ", b"two ", b"three"):
            source.feed_data(piece)
            await asyncio.sleep(0)
        source.feed_eof()
        received = await arrived.read()
        took = loop.time() - began
        await passing
        await writer.wait_closed()
        server.close()
        return received, took

    received, took = asyncio.run(story())
    assert received == b"one two three"
    assert took >= DELAY_SECONDS
