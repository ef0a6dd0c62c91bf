"""Root puts the virtual address up, remembers it, and removes it when cluster.yml no longer gives it to this node."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cluster.machine.network.namespaces import SCRIPTS, Namespace, link

from pgpool_cluster.ground import paths, plain
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import due_address, held_address, server, units
from pgpool_cluster.machine.network import carried_address
from pgpool_cluster.machine.network.carried_address import Placement

NODES = "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}\n"
VIRTUAL = f"{NODES}virtual_ip: 10.0.0.50/24\n"
MOVED = f"{NODES}virtual_ip: 10.0.0.51/24\n"


class Kernel:
    """This machine: its addresses, and what root did with them, in order."""

    def __init__(self) -> None:
        self.addresses = {"10.0.0.2": "eth0"}
        self.done: list[str] = []
        self.other = ""
        self.fails = ""

    def interface_of(self, address: str) -> str:
        return self.addresses.get(address, "")

    def other_host(self, _: Placement) -> str:
        self.done.append("ask")
        return self.other

    def put_up(self, placement: Placement) -> None:
        self._do("put up", placement.address.ip)
        self.addresses[str(placement.address.ip)] = placement.interface

    def announce(self, placement: Placement) -> None:
        self._do("announce", placement.address.ip)

    def end_connections(self, address: plain.Address, ports: tuple[int, ...]) -> None:
        assert {5432, 9999} <= set(ports)
        self._do("end connections to", address)

    def remove(self, address: plain.Address) -> None:
        self._do("remove", address)
        self.addresses.pop(str(address), None)

    def _do(self, what: str, address: plain.Address) -> None:
        self.done.append(f"{what} {address}")
        if what == self.fails:
            raise ServerError(f"ip: {what} fails", hint="ip address")

    @property
    def new(self) -> list[str]:
        """The actions since the last call."""
        found, self.done = self.done, []
        return found


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("put_up", "announce", "end_connections", "remove", "other_host"):
        monkeypatch.setattr(carried_address, name, getattr(made, name))
    monkeypatch.setattr(server, "interface_of", made.interface_of)
    monkeypatch.setattr(server, "host_name", lambda: "pg2")
    for name in ("CLUSTER_YML", "HOSTS", "HELD_ADDRESS"):
        monkeypatch.setattr(paths, name, tmp_path / name)
    monkeypatch.setattr(held_address, "_LOCK", tmp_path / "lock")
    paths.CLUSTER_YML.write_text(VIRTUAL)
    return made


PUT_UP = ["ask", "put up 10.0.0.50", "announce 10.0.0.50"]
REMOVED = ["end connections to 10.0.0.50", "remove 10.0.0.50"]


def test_the_address_of_cluster_yml_is_put_up_announced_and_removed(kernel: Kernel) -> None:
    assert units.serve_control("address take") == "done"
    assert kernel.new == PUT_UP
    assert units.serve_control("address drop") == "done"
    assert kernel.new == REMOVED
    assert not paths.HELD_ADDRESS.exists()


def test_a_second_take_only_announces_the_address_again(kernel: Kernel) -> None:
    due_address.take()
    assert kernel.new == PUT_UP
    due_address.take()
    assert kernel.new == PUT_UP[1:], "no other host is asked for an address that is up here"


def test_an_address_that_another_host_has_is_not_put_up(kernel: Kernel) -> None:
    kernel.other = "02:00:00:00:00:99"
    answer = units.serve_control("address take")
    assert answer.startswith(
        "another host on eth0, 02:00:00:00:00:99, answers for the virtual address 10.0.0.50\nhint: "
    )
    assert kernel.new == ["ask"]
    assert not paths.HELD_ADDRESS.exists()


@pytest.mark.parametrize(
    "text",
    [NODES, f"mode: native_replication\n{VIRTUAL}", "nodes: {pg2: 10.0.0.2}\nvirtual_ip: 10.0.0.50/24\n",
     "nodes: {pg1: 10.0.0.1, pg2: {address: 10.0.0.2, runs: [postgresql]}, pg3: 10.0.0.3}\nvirtual_ip: 10.0.0.50/24\n"],
)  # fmt: skip
def test_a_node_to_which_the_agents_move_no_address_puts_none_up(kernel: Kernel, text: str) -> None:
    paths.CLUSTER_YML.write_text(text)
    assert units.serve_control("address take").startswith("pg2 carries no virtual address")
    assert units.serve_control("address drop") == "done"
    assert kernel.new == []


@pytest.mark.parametrize("request_", ["address", "address take 10.0.0.9/24", "address  take", "address give"])
def test_another_request_is_refused(kernel: Kernel, request_: str) -> None:
    assert units.serve_control(request_).startswith("refused: ")
    assert kernel.new == []


def test_an_address_that_a_former_pgpool_has_left_is_removed(kernel: Kernel) -> None:
    """Its watchdog put it up, so root has no record of it."""
    assert units.serve_control("address drop") == "done"
    assert kernel.new == REMOVED


def test_a_new_address_replaces_the_former_one(kernel: Kernel) -> None:
    due_address.take()
    paths.CLUSTER_YML.write_text(MOVED)
    due_address.take()
    assert kernel.new == [*PUT_UP, *REMOVED, "ask", "put up 10.0.0.51", "announce 10.0.0.51"]
    assert units.serve_control("address drop") == "done"
    assert kernel.addresses == {"10.0.0.2": "eth0"}


@pytest.mark.parametrize(
    ("text", "removed"),
    [(VIRTUAL, False), (f"{VIRTUAL}clients: [10.0.0.0/8]\n", False), ("nodes:\n\tpg1: 10.0.0.1\n", False),
     (MOVED, True), (NODES, True), (f"mode: native_replication\n{VIRTUAL}", True),
     ("nodes: {pg1: 10.0.0.1, pg3: 10.0.0.3}\nvirtual_ip: 10.0.0.50/24\n", True)],
)  # fmt: skip
def test_apply_removes_an_address_that_is_no_longer_this_nodes(kernel: Kernel, text: str, removed: bool) -> None:
    due_address.take()
    assert kernel.new == PUT_UP
    paths.CLUSTER_YML.write_text(text)
    due_address.follow_cluster_yml()
    assert kernel.new == (REMOVED if removed else [])
    due_address.follow_cluster_yml()
    assert kernel.new == []


def test_withdraw_removes_the_address_without_cluster_yml(kernel: Kernel) -> None:
    due_address.take()
    assert kernel.new == PUT_UP
    paths.CLUSTER_YML.unlink()
    assert held_address.withdraw()
    assert not held_address.withdraw()
    assert kernel.new == REMOVED


def test_what_could_not_be_removed_is_remembered(kernel: Kernel) -> None:
    due_address.take()
    kernel.fails = "remove"
    assert units.serve_control("address drop") == "ip: remove fails\nhint: ip address"
    kernel.fails = ""
    assert units.serve_control("address drop") == "done"
    assert kernel.addresses == {"10.0.0.2": "eth0"}


def test_root_remembers_the_address_before_it_puts_it_up(kernel: Kernel) -> None:
    kernel.fails = "put up"
    assert units.serve_control("address take").startswith("ip: put up fails")
    assert json.loads(paths.HELD_ADDRESS.read_text())["address"] == "10.0.0.50/24"
    assert paths.HELD_ADDRESS.stat().st_mode & 0o022 == 0


def test_root_drops_an_address_without_the_modules_that_read_cluster_yml() -> None:
    """They take three times as long to import as the rest, and a node that is cut off has little time."""
    heavy = "print([name for name in sys.modules if name in ('yaml', 'cryptography')])"
    code = f"import sys; from pgpool_cluster.machine import units, held_address; {heavy}"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"address": "x", "interface": "eth0", "alone": true, "ports": []}'])
def test_a_damaged_record_counts_as_none(kernel: Kernel, text: str) -> None:
    paths.HELD_ADDRESS.write_text(text)
    assert units.serve_control("address drop") == "done"
    assert kernel.new == REMOVED


def test_a_node_in_another_network_than_the_address_gets_its_route() -> None:
    alone = Placement(ipaddress.ip_interface("10.9.0.50/24"), "eth0", alone=False)
    assert alone.words == ["10.9.0.50/24", "dev", "eth0"]


def test_on_a_real_link_root_takes_refuses_and_drops_the_address(tmp_path: Path) -> None:
    """Two hosts with the same cluster.yml."""
    (tmp_path / "cluster.yml").write_text("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}\nvirtual_ip: 10.0.0.50/24\n")

    def request(host: Namespace, name: str, word: str) -> str:
        return host.python(f"""
from pathlib import Path
from pgpool_cluster.ground import paths
folder = Path({str(tmp_path)!r})
paths.CLUSTER_YML, paths.HOSTS = folder / "cluster.yml", folder / "hosts"
paths.HELD_ADDRESS = folder / {name!r}
from pgpool_cluster.machine import held_address, server, units
held_address._LOCK = folder / {f"{name}.lock"!r}
server.host_name = lambda: {name!r}
print(units.serve_control("address {word}"))
""")

    with link() as (pg1, pg2):
        assert request(pg1, "pg1", "take") == "done"
        assert "inet 10.0.0.50/32 scope host eth0" in pg1.run("ip -oneline address show dev eth0")
        assert request(pg1, "pg1", "take") == "done"
        assert "answers for the virtual address 10.0.0.50" in request(pg2, "pg2", "take")
        assert "10.0.0.50" not in pg2.run("ip address")
        assert request(pg1, "pg1", "drop") == "done"
        assert "10.0.0.50" not in pg1.run("ip address")
        assert request(pg2, "pg2", "take") == "done"
        assert "10.0.0.50" in pg2.run("ip address")
