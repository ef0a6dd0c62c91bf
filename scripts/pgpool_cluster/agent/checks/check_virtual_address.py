"""Check that exactly one node has the virtual address, and no host outside of the cluster."""

from __future__ import annotations

import contextlib
import socket

from ...decision import virtual_address
from ...decision.situation import Policy, Situation, rightful_primary
from ...ground.paths import CLUSTER_YML, UNIT
from ...machine import pgpool
from ...machine.network import link_layer
from ...node.node import Here
from .checklist import Checklist

_ANSWER_SECONDS = 0.5
"""Time for the holder of the address to answer; the link-layer address is known even if it refuses the connection."""


def of_virtual_address(here: Here, checks: Checklist) -> None:
    """Check which nodes have the address, and which host answers for it; raises ServerError."""
    if here.cluster.virtual_ip is None:
        return
    _of_holders(here, checks)
    if not here.look().virtual_ip:
        _of_other_hosts(here, checks)


def _of_holders(here: Here, checks: Checklist) -> None:
    """Check that one node has the address, according to the facts that this node collected last."""
    cluster, facts = here.cluster, here.seen.value
    address = cluster.virtual_ip.ip if cluster.virtual_ip is not None else ""
    holders = [node.name for node in cluster.nodes if facts.of(node.name).reachable and facts.of(node.name).virtual_ip]
    names = " and ".join(holders)
    checks.add(
        "no two nodes have the virtual address",
        len(holders) <= 1,
        f"{names} have {address}",
        f"on the node that is not the primary: ip address show to {address}, then ip address del; journalctl -u {UNIT}",
    )
    situation = Situation(cluster, here.me, facts, facts.of(here.me.name), rightful_primary(cluster, facts), Policy())
    wanted = virtual_address.holder(situation) if cluster.moves_address and situation.majority else ""
    if wanted:
        checks.add(
            "a node has the virtual address",
            bool(holders),
            f"no node has {address}, and {wanted} should have it",
            f"pgpoolctl status shows why {wanted} waits; otherwise journalctl -u {UNIT} on {wanted}",
        )


def _of_other_hosts(here: Here, checks: Checklist) -> None:
    if here.cluster.virtual_ip is None:
        return
    address = str(here.cluster.virtual_ip.ip)
    with contextlib.suppress(OSError):
        socket.create_connection((address, pgpool.port(here.cluster)), timeout=_ANSWER_SECONDS).close()
    seen = link_layer.neighbours()
    holder = seen.get(address, "")
    ours = {seen.get(node.address, "") for node in here.cluster.nodes}
    checks.add(
        "no host outside of the cluster has the virtual address",
        not holder or holder in ours,
        f"a host with the link-layer address {holder} answers for {address}",
        f"remove {address} from that host (ip neighbour show {address}), or choose another virtual_ip in {CLUSTER_YML}",
    )
