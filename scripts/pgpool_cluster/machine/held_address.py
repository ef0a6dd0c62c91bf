"""Put the virtual address up on this machine and remove it, as root. Root remembers what it has put up.

So an address that cluster.yml no longer gives to this node is removed as well. `take` and `drop` do not run at the same
time. A host that still has the address, although it shows no sign of life, keeps it: two hosts never have it on a link.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ..definition import cluster_file
from ..definition.cluster import Cluster, Node, own_node
from ..ground import log, paths
from ..ground.errors import ClusterError, OperationError, ServerError, UsageError
from . import hands, roots_lock, server
from .network import addresses, carried_address
from .network.carried_address import Placement

_LOCK = paths.ROOTS_RUN / "virtual-address.lock"
_LOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _HeldAddress:
    """The address that root has put up, and the cluster's ports."""

    placement: Placement
    ports: tuple[int, ...]

    @classmethod
    def load(cls) -> _HeldAddress | None:
        """Read paths.HELD_ADDRESS; None if it is missing or damaged."""
        try:
            found = hands.read(paths.HELD_ADDRESS, 0)
            if found is None:
                return None
            values = json.loads(found.text)
            address = ipaddress.ip_interface(str(values["address"]))
            placement = Placement(address, str(values["interface"]), alone=values["alone"] is True)
            return cls(placement, tuple(map(int, values["ports"])))
        except (ServerError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self) -> None:
        """Write paths.HELD_ADDRESS; raises ServerError."""
        one = self.placement
        values = {"address": str(one.address), "interface": one.interface, "alone": one.alone, "ports": self.ports}
        hands.write(paths.HELD_ADDRESS, json.dumps(values).encode() + b"\n", 0o644)


def carry_out(word: str) -> str:
    """Carry out `take` or `drop`, and return `done` or why that failed, with a hint on a second line."""
    try:
        (take if word == "take" else drop)()
    except ClusterError as error:
        log.warning(f"address {word}: {error.message}", stream=sys.stderr)
        return f"{error.message}\nhint: {error.hint}"
    return "done"


def take() -> None:
    """Put up the virtual address of cluster.yml, and announce it on the link; raises ClusterError.

    Another host that answers for the address keeps it.
    """
    cluster, me = server.this_node()
    wanted = _wanted(cluster, me)
    if wanted is None:
        raise UsageError(f"{me.name} carries no virtual address", hint=f"see virtual_ip in {paths.CLUSTER_YML}")
    with _locked():
        held = _HeldAddress.load()
        if held is not None and held.placement != wanted:
            _remove(held)
        if not server.interface_of(str(wanted.address.ip)):
            _refuse_second(wanted)
        _HeldAddress(wanted, cluster.ports).save()
        carried_address.put_up(wanted)
    carried_address.announce(wanted)


def drop() -> None:
    """Remove the address that root has put up, or that a former pgpool-II has left; raises ClusterError."""
    with _locked():
        held = _HeldAddress.load()
        if held is None:
            cluster, me = server.this_node()
            wanted = _wanted(cluster, me)
            held = _HeldAddress(wanted, cluster.ports) if wanted is not None else None
        if held is not None:
            _remove(held)


def withdraw() -> None:
    """Remove the address that root has put up, whatever cluster.yml says; raises ClusterError."""
    with _locked():
        held = _HeldAddress.load()
        if held is not None:
            _remove(held)


def follow_cluster_yml() -> None:
    """Remove the address that root has put up, unless cluster.yml still gives it to this node; raises ClusterError.

    A cluster.yml that cannot be read changes nothing.
    """
    held = _HeldAddress.load()
    if held is None:
        return
    try:
        cluster = addresses.placed(cluster_file.load(paths.CLUSTER_YML, server.host_name()), addresses.laid())
    except ClusterError:
        return
    wanted = None
    with contextlib.suppress(UsageError):  # this machine is no node any more
        wanted = _wanted(cluster, own_node(cluster, [server.host_name()], str(paths.CLUSTER_YML)))
    if wanted != held.placement:
        withdraw()


def _wanted(cluster: Cluster, me: Node) -> Placement | None:
    """Return what this node would put up; None if the agents do not move the address, or not to this node."""
    interface = server.interface_for_clients(cluster, me) if cluster.moves_address else ""
    if not interface or cluster.virtual_ip is None:
        return None
    return Placement(cluster.virtual_ip, interface, alone=cluster.virtual_among_nodes)


def _refuse_second(wanted: Placement) -> None:
    other = carried_address.other_host(wanted)
    if other:
        address, interface = wanted.address.ip, wanted.interface
        raise OperationError(
            f"another host on {interface}, {other}, answers for the virtual address {address}",
            hint=f"ip neighbour show {address} dev {interface}; remove the address there: ip address del",
        )


def _remove(held: _HeldAddress) -> None:
    address = held.placement.address.ip
    carried_address.end_connections(address, held.ports)
    carried_address.remove(address)
    hands.remove(paths.HELD_ADDRESS, 0)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with roots_lock.locked(_LOCK, f"the virtual address has been moving for {_LOCK_SECONDS:g} s", _LOCK_SECONDS):
        yield
