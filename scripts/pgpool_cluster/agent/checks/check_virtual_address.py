"""Check that no host outside of the cluster has the virtual address."""

from __future__ import annotations

import contextlib
import socket

from ...ground.paths import CLUSTER_YML
from ...machine import pgpool
from ...machine.network import link_layer
from ...node.node import Here
from .checklist import Checklist

_ANSWER_SECONDS = 0.5
"""Time for the holder of the address to answer; the link-layer address is known even if it refuses the connection."""


def of_virtual_address(here: Here, checks: Checklist) -> None:
    """Check which host answers for the address, unless this node has it; raises ServerError."""
    if here.cluster.virtual_ip is None or here.look().virtual_ip:
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
