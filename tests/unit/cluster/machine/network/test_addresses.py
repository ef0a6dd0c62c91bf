"""Host names in cluster.yml resolve to the same addresses on every node."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths, plain
from pgpool_cluster.ground.errors import UsageError
from pgpool_cluster.machine import server
from pgpool_cluster.machine.network import addresses
from pgpool_cluster.machine.network.addresses import Machine, changed, placed, settle, usable

NAMES = "nodes:\n  pg1: pg1.lan\n  pg2: pg2.lan\n  pg3: pg3.lan\n"
EVERYWHERE = {f"pg{number}.lan": (f"10.0.0.{number}",) for number in (1, 2, 3)}
DEBIAN = {**EVERYWHERE, "pg1.lan": ("127.0.1.1",)}
"""The answers on pg1 itself with the /etc/hosts of Debian's installer."""
SIX = {f"pg{number}.lan": (f"fd00::{number}",) for number in (1, 2, 3)}


def address(text: str) -> plain.Address:
    found = plain.address(text)
    assert found is not None
    return found


def machine(*own: str) -> Machine:
    """A machine with these addresses; it reaches all others from the first one of the right family."""
    mine = [address(text) for text in own]
    return Machine(lambda one: one in mine, lambda to: next((one for one in mine if one.version == to.version), None))


def cluster_of(text: str = NAMES) -> Cluster:
    return parse(text, "cluster.yml", "pg1")


def settled(
    found: Mapping[str, tuple[str, ...]],
    *own: str,
    text: str = NAMES,
    me: str = "pg1",
    before: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the nodes' addresses as the machine `me` resolves them."""
    cluster = cluster_of(text)
    answers = {name: tuple(map(address, texts)) for name, texts in found.items()}
    made = settle(cluster, cluster.named(me), answers, before or {}, machine(*own))
    return [node.address for node in made.cluster.nodes]


@pytest.mark.parametrize("me", ["pg1", "pg2", "pg3"])
def test_every_node_resolves_names_to_the_same_addresses(me: str) -> None:
    assert settled(EVERYWHERE, me=me) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_debians_127_0_1_1_does_not_hide_a_node_from_itself() -> None:
    """The others see it at the address that it uses to reach them."""
    assert settled(DEBIAN, "10.0.0.1") == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_an_address_beside_debians_127_0_1_1_is_used() -> None:
    assert settled({**DEBIAN, "pg1.lan": ("127.0.1.1", "10.0.0.1")}, "10.9.9.9")[0] == "10.0.0.1"


def test_the_applied_address_is_preferred_while_the_machine_has_it() -> None:
    assert settled(DEBIAN, "10.9.9.9", "10.0.0.1", before={"pg1.lan": "10.0.0.1"})[0] == "10.0.0.1"
    assert settled(DEBIAN, "10.9.9.9", before={"pg1.lan": "10.0.0.1"})[0] == "10.9.9.9"


def test_the_virtual_address_is_never_used_as_a_nodes_own() -> None:
    with pytest.raises(UsageError, match=r"cluster.yml:2: pg1.lan, the address of pg1, is 127.0.1.1 on this machine"):
        settled(DEBIAN, "10.0.0.50", text=f"{NAMES}virtual_ip: 10.0.0.50/24\n")


@pytest.mark.parametrize("own", [("10.0.0.1", "fd00::1"), ("fd00::1", "10.0.0.1")])
def test_ipv4_is_used_if_every_node_has_both(own: tuple[str, ...]) -> None:
    both = {name: (*SIX[name], *EVERYWHERE[name]) for name in SIX}
    assert settled(both, *own) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert settled({**both, "pg1.lan": ("127.0.1.1",)}, *own) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_ipv6_is_used_if_one_node_has_nothing_else() -> None:
    found = {name: (*SIX[name], *EVERYWHERE[name]) for name in SIX}
    assert settled({**found, "pg3.lan": ("fd00::3",)}) == ["fd00::1", "fd00::2", "fd00::3"]
    assert settled(EVERYWHERE | {"pg3.lan": ("10.0.0.9", "10.0.0.3")})[2] == "10.0.0.3"


def test_names_without_a_common_family_are_refused_with_the_line() -> None:
    with pytest.raises(UsageError, match=r"cluster.yml:4: pg3.lan has IPv6 addresses only, pg1.lan has IPv4 ones"):
        settled({**EVERYWHERE, "pg3.lan": ("fd00::3",)})


@pytest.mark.parametrize(
    ("lost", "said"),
    [((), "cluster.yml:3: pg2.lan, the address of pg2, is not found"),
     (("127.0.1.1",), "cluster.yml:3: pg2.lan, the address of pg2, is 127.0.1.1 on this machine, which no other node"),
     (("fe80::2",), "cluster.yml:3: pg2.lan, the address of pg2, is fe80::2 on this machine"),
     (("10.0.0.1",), "cluster.yml:3: pg2.lan, the address of pg2, is 10.0.0.1, as is that of pg1")],
)  # fmt: skip
def test_a_name_without_a_usable_address_is_refused_with_the_line(lost: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settled({**EVERYWHERE, "pg2.lan": lost})


def test_a_silent_name_server_leaves_the_applied_addresses_in_force() -> None:
    before = {name: found[0] for name, found in EVERYWHERE.items()}
    cluster = cluster_of()
    made = settle(cluster, cluster.named("pg1"), {}, before, machine("10.0.0.1"))
    assert [node.address for node in made.cluster.nodes] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert len(made.notes) == 2
    assert all("keeping" in note for note in made.notes)
    assert settled({}, before=before) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]  # before there is a network


def test_a_changed_name_gets_its_new_address_and_a_lost_name_keeps_the_old_one() -> None:
    before = {name: found[0] for name, found in EVERYWHERE.items()}
    now = {"pg1.lan": ("10.0.0.1",), "pg2.lan": ("10.0.0.22",)}
    assert settled(now, before=before) == ["10.0.0.1", "10.0.0.22", "10.0.0.3"]


def test_answers_that_make_no_cluster_leave_the_applied_addresses_in_force() -> None:
    before = {name: found[0] for name, found in EVERYWHERE.items()}
    now = {**EVERYWHERE, "pg2.lan": ("10.0.0.1",)}
    assert settled(now, before=before) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_a_single_node_needs_no_network() -> None:
    assert settled({"pg1.lan": ("127.0.1.1",)}, text="nodes: {pg1: pg1.lan}") == ["127.0.0.1"]


def test_an_address_that_others_cannot_reach_is_refused_with_the_line() -> None:
    with pytest.raises(UsageError, match=r"cluster.yml:3: pg2 has an address that no other node can reach: 127.0.1.1"):
        settled({}, text="nodes:\n  pg1: 10.0.0.1\n  pg2: 127.0.1.1\n")


def test_usable_addresses_are_in_the_same_order_everywhere() -> None:
    texts = ["fd00::2", "10.0.0.9", "127.0.0.1", "::1", "fe80::1", "10.0.0.10", "::ffff:10.0.0.1", "ff02::1"]
    assert [str(one) for one in usable(map(address, texts))] == ["10.0.0.9", "10.0.0.10", "fd00::2"]


def test_status_shows_the_host_name_of_a_node() -> None:
    node = placed(cluster_of(), {"pg1.lan": "10.0.0.1"}).nodes[0]
    assert (node.address, node.host, node.written, node.hosts) == ("10.0.0.1", "pg1.lan", "pg1.lan", "10.0.0.1/32")


def test_an_unresolved_name_never_reaches_a_file() -> None:
    with pytest.raises(UsageError, match=r"pg1.lan, the address of pg1, was not looked up yet"):
        _ = cluster_of().nodes[0].hosts


def test_check_reports_changed_and_lost_names() -> None:
    node = placed(cluster_of(), {"pg1.lan": "10.0.0.1"}).nodes[0]

    def said(*found: str, mine: bool = False) -> str:
        return changed(node, {"pg1.lan": tuple(map(address, found))}, mine=mine)

    assert said("10.0.0.1", "fd00::1") == ""
    assert said("127.0.1.1", mine=True) == ""
    assert "is 127.0.1.1 on this machine" in said("127.0.1.1")
    assert "is not found" in said(mine=True)
    assert said("10.0.0.9") == "pg1.lan is 10.0.0.9 now, but 10.0.0.1 is in use"


def test_the_agent_uses_the_applied_addresses_without_a_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "CLUSTER_YML", tmp_path / "cluster.yml")
    monkeypatch.setattr(paths, "HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(server, "host_name", lambda: "pg2")
    monkeypatch.setattr(addresses, "look_up", lambda _: pytest.fail("a name server was asked"))
    paths.CLUSTER_YML.write_text(NAMES)
    assert [node.address for node in server.this_node()[0].nodes] == ["pg1.lan", "pg2.lan", "pg3.lan"]
    paths.HOSTS.write_text("# names\n10.0.0.1 pg1.lan\n10.0.0.2 pg2.lan\n10.0.0.3 pg3.lan\n")
    cluster, me = server.this_node()
    assert [node.address for node in cluster.nodes] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert me.address == "10.0.0.2"


def test_dns_is_queried_if_etc_hosts_has_only_a_loopback_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def getent(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        known = "10.0.0.1" if "--service=hosts:dns" in words else "127.0.1.1"
        return subprocess.CompletedProcess(words, 0, f"{known}       STREAM pg1.lan\n", "")

    monkeypatch.setattr(subprocess, "run", getent)
    assert [str(one) for one in addresses.look_up(["pg1.lan"])["pg1.lan"]] == ["127.0.1.1", "10.0.0.1"]
    assert len(asked) == 2


def test_a_silent_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def getent(words: list[str], **given: float) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(words, given["timeout"])

    monkeypatch.setattr(subprocess, "run", getent)
    assert addresses.look_up(["pg1.lan", "pg2.lan"]) == {"pg1.lan": (), "pg2.lan": ()}


def test_this_machine_has_its_loopback_address_and_uses_it_as_source() -> None:
    assert addresses.has(address("127.0.0.1"))
    assert not addresses.has(address("192.0.2.1"))
    assert addresses.toward(address("127.0.0.9")) == address("127.0.0.1")
