"""Put the virtual address of cluster.yml up as root, and remove one that cluster.yml does not give to this node.

Another host that answers for the address keeps it, even if it shows no sign of life: two hosts never have it on a link.
"""

from __future__ import annotations

import contextlib

from ..definition import cluster_file
from ..definition.cluster import Cluster, Node, own_node
from ..ground import paths
from ..ground.errors import ClusterError, OperationError, UsageError
from . import held_address, server
from .held_address import HeldAddress
from .network import addresses, carried_address
from .network.carried_address import Placement


def take() -> None:
    """Put up the virtual address of cluster.yml, and announce it on the link; raises ClusterError.

    Another host that answers for the address keeps it.
    """
    cluster, me = server.this_node()
    wanted = _wanted(cluster, me)
    if wanted is None:
        raise UsageError(f"{me.name} carries no virtual address", hint=f"see virtual_ip in {paths.CLUSTER_YML}")
    with held_address.changing():
        held = HeldAddress.load()
        if held is not None and held.placement != wanted:
            held.remove()
        if not server.interface_of(str(wanted.address.ip)):
            _refuse_second(wanted)
        HeldAddress(wanted, cluster.ports).save()
        carried_address.put_up(wanted)
    carried_address.announce(wanted)


def drop_foreign() -> None:
    """Remove the virtual address of cluster.yml although root has not put it up; raises ClusterError.

    A pgpool-II with a watchdog has left it there.
    """
    cluster, me = server.this_node()
    wanted = _wanted(cluster, me)
    if wanted is not None:
        with held_address.changing():
            HeldAddress(wanted, cluster.ports).remove()


def follow_cluster_yml() -> None:
    """Remove the address that root has put up, unless cluster.yml still gives it to this node; raises ClusterError.

    A cluster.yml that cannot be read changes nothing.
    """
    held = HeldAddress.load()
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
        held_address.withdraw()


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
