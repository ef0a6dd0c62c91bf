"""The virtual address on a real link between two network namespaces."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import struct
from collections.abc import Iterator

import pytest
from tests.unit.cluster.machine.network.namespaces import Namespace, link

from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine.network import gratuitous_arp
from pgpool_cluster.machine.network.carried_address import Placement

VIRTUAL = {4: "10.0.0.50/24", 6: "fd00::50/64"}
OWN = {4: "10.0.0.1", 6: "fd00::1"}
families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with link() as found:
        yield found


def bare(family: int) -> str:
    return VIRTUAL[family].split("/")[0]


def put_up(host: Namespace, family: int, then: str = "") -> str:
    return host.python(f"carried_address.put_up(at({VIRTUAL[family]!r}))\n{then}")


def source(host: Namespace, target: str) -> str:
    (route,) = json.loads(host.run(f"ip -json route get {target}"))
    return str(route["prefsrc"])


def hardware(host: Namespace) -> str:
    (found,) = json.loads(host.run("ip -json link show eth0"))
    return str(found["address"])


def neighbour(host: Namespace, address: str) -> str:
    rows = json.loads(host.run(f"ip -json neighbour show to {address} dev eth0") or "[]")
    return next((str(row.get("lladdr", "")) for row in rows), "")


@pytest.mark.parametrize(
    ("address", "alone", "words"),
    [("10.0.0.50/24", True, "10.0.0.50/32 dev eth0 scope host"), ("10.9.0.50/24", False, "10.9.0.50/24 dev eth0"),
     ("fd00::50/64", True, "fd00::50/128 dev eth0 nodad preferred_lft 0"),
     ("fd01::50/64", False, "fd01::50/64 dev eth0 nodad preferred_lft 0")],
)  # fmt: skip
def test_the_flags_depend_on_the_family_and_on_the_route_that_is_there(address: str, alone: bool, words: str) -> None:
    assert " ".join(Placement(ipaddress.ip_interface(address), "eth0", alone).words) == words


@families
def test_clients_on_the_link_reach_the_address_until_it_is_removed(
    hosts: tuple[Namespace, Namespace], family: int
) -> None:
    node, client = hosts
    put_up(node, family)
    put_up(node, family)
    where, domain = bare(family), f"socket.AF_INET{'6' if family == 6 else ''}"
    serve = f"""
waiting = socket.create_server(("::" if {family} == 6 else "0.0.0.0", 9999), family={domain})
print("ready", flush=True)
waiting.accept()[0].sendall(b"served")
"""
    with node.starting(serve) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert client.python(f"print(socket.create_connection(({where!r}, 9999), 5).recv(9))") == "b'served'"
    remove = f"carried_address.remove(ipaddress.ip_address({where!r}))\n"
    node.python(remove * 2)
    assert where not in node.run("ip address")
    assert OWN[family] in node.run("ip address")


@families
def test_the_address_is_never_chosen_as_a_source_even_after_the_nodes_own_one_is_renewed(
    hosts: tuple[Namespace, Namespace], family: int
) -> None:
    """As a DHCP client renews it. The other nodes admit only a node's own address."""
    node, _ = hosts
    length, gateway, beyond, onlink = {
        4: (24, "10.0.0.254", "192.0.2.0/24", "10.77.0.0/16"),
        6: (64, "fd00::254", "2001:db8::/64", "fd77::/64"),
    }[family]
    targets = {4: ("10.0.0.2", "192.0.2.9", "10.77.0.9"), 6: ("fd00::2", "2001:db8::9", "fd77::9")}[family]

    def sources() -> set[str]:
        node.run(f"ip route replace {beyond} via {gateway} dev eth0")
        node.run(f"ip route replace {onlink} dev eth0")
        return {source(node, target) for target in targets}

    put_up(node, family)
    assert sources() == {OWN[family]}
    own = f"{OWN[family]}/{length} dev eth0"
    node.run(f"ip address del {own}")
    node.run(f"ip address add {own}{' nodad' if family == 6 else ''}")
    assert sources() == {OWN[family]}
    assert bare(family) in node.run("ip address")


@families
def test_the_hosts_on_the_link_know_at_once_where_the_address_is_now(
    hosts: tuple[Namespace, Namespace], family: int
) -> None:
    node, client = hosts
    client.run(f"ip neighbour replace {bare(family)} lladdr 02:00:00:00:00:99 dev eth0 nud stale")
    seconds = put_up(
        node,
        family,
        f"""
began = time.monotonic()
carried_address.announce(at({VIRTUAL[family]!r}))
print(time.monotonic() - began)
""",
    )
    assert neighbour(client, bare(family)) == hardware(node)
    assert float(seconds) < 0.5


@families
def test_another_host_that_has_the_address_is_found(hosts: tuple[Namespace, Namespace], family: int) -> None:
    node, holder = hosts
    ask = f"print(carried_address.other_host(at({VIRTUAL[family]!r})))"
    assert node.python(ask) == ""
    put_up(holder, family)
    assert node.python(ask) == hardware(holder)
    holder.python(f"carried_address.remove(ipaddress.ip_address({bare(family)!r}))")
    assert node.python(ask) == "", "what the table of neighbours says is old"


@families
def test_clients_learn_that_their_connection_has_ended(hosts: tuple[Namespace, Namespace], family: int) -> None:
    """A client that waits for a result would otherwise wait until TCP gives up."""
    node, client = hosts
    put_up(node, family)
    domain = f"socket.AF_INET{'6' if family == 6 else ''}"
    serve = f"""
waiting = socket.create_server(("::" if {family} == 6 else "0.0.0.0", 9999), family={domain})
print("ready", flush=True)
kept = waiting.accept()
time.sleep(60)
"""
    wait = f"""
with socket.create_connection(({bare(family)!r}, 9999), 5) as asking:
    print("connected", flush=True)
    asking.settimeout(10)
    try:
        asking.recv(1)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""
    with contextlib.ExitStack() as both:
        server = both.enter_context(node.starting(serve))
        assert server.stdout is not None
        server.stdout.readline()
        waiting = both.enter_context(client.starting(wait))
        assert waiting.stdout is not None
        waiting.stdout.readline()
        end = "carried_address.end_connections(ipaddress.ip_address({!r}), [{}])"
        node.python(end.format(bare(family), 22))
        assert waiting.poll() is None, "connections to other ports go on"
        node.python(end.format(bare(family), 9999))
        assert waiting.stdout.readline().strip() == "ConnectionResetError"


def test_the_announcement_is_a_request_for_the_address_itself() -> None:
    """RFC 5227, 2.3."""
    own = bytes.fromhex("0242c6120001")
    address = ipaddress.IPv4Address("10.0.0.50")
    found = gratuitous_arp.announcement(address, own)
    assert struct.unpack("!HHBBH6s4s6s4s", found) == (1, 0x0800, 6, 4, 1, own, address.packed, bytes(6), address.packed)


def test_a_missing_interface_is_reported() -> None:
    with pytest.raises(ServerError, match=r"cannot announce 10.0.0.50 on no-such: .*"):
        gratuitous_arp.announce(ipaddress.IPv4Address("10.0.0.50"), "no-such")
