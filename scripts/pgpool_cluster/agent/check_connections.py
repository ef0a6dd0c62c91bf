"""Check the connections of this node to the other ones, their clocks and their addresses."""

from __future__ import annotations

import math
import socket
import time

from ..copying import copy_source
from ..decision.links import DEAD_SECONDS, Link, LinkState
from ..definition.cluster import Node, Service
from ..definition.key import Role
from ..ground import paths, plain, ports
from ..machine import addresses, pgpool
from ..node.node import Here
from ..operations import proof
from ..postgresql import libpq, turned_away
from ..transport import reach
from ..transport.protocol import ClockRequest
from .checklist import CERTIFICATE_FIX, Checklist

MOST_SKEW = 2.0
"""Seconds that two nodes' clocks may differ. pgpool-II's watchdog compares times, and people compare logs."""


def between_nodes(here: Here, checks: Checklist) -> None:
    """Check what this node and the others need of each other."""
    _peers(here, checks)
    _heartbeats(here, checks)
    _addresses(here, checks)
    _others(here, checks)


def _reaches(address: str, port: int) -> str:
    """Return the reason why a TCP port does not accept a connection within 3 s, "" if it does."""
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _peers(here: Here, checks: Checklist) -> None:
    before = time.time()
    clocks = here.peers.ask_all(ClockRequest(), seconds=2.5)
    after = time.time()
    mine = here.look().key
    for name, peer in here.peers.peers.items():
        checks.add(
            f"{name} answers over ssh", name in clocks, peer.problem or "no answer", reach.fix(peer.problem, name)
        )
        if name in clocks:
            same = clocks[name].key == mine
            checks.add(
                f"{name} has this node's cluster.key",
                same,
                "its key differs, or has not been applied yet",
                f"copy {paths.CLUSTER_KEY} of this node to it, then pgpoolctl apply on both",
            )
            other = clocks[name].file not in ("", here.cluster.fingerprint)
            checks.add(
                f"{name} has this node's cluster.yml",
                not other,
                "nodes, mode or synchronous differ there",
                f"use the same {paths.CLUSTER_YML} on both, then pgpoolctl apply on both",
            )
            skew = max(before - clocks[name].clock, clocks[name].clock - after, 0.0)
            checks.add(
                f"the clock of {name} agrees",
                skew <= MOST_SKEW,
                f"the clocks differ by {skew:.1f} s",
                "apt install chrony on both",
            )


def _heartbeats(here: Here, checks: Checklist) -> None:
    """Check the links with nodes that send heartbeats. Nodes of older packages send none."""
    beats = here.beats
    if not beats.active:
        return
    for name, link in beats.links().items():
        if link.state in (LinkState.UNKNOWN, LinkState.UNSUPPORTED):
            continue
        up = link.state is LinkState.UP
        checks.add(f"heartbeats from {name} arrive", up, "" if up else _why_no_link(here, link), _link_fix(here, name))


def _why_no_link(here: Here, link: Link) -> str:
    """Return why the link with a node is not up."""
    unbound = here.beats.unbound
    if unbound:
        return f"this node cannot open its socket: {unbound}"
    refused = here.beats.refused(link.node)
    if refused:
        return f"a datagram from its address was refused: {refused}"
    silent = time.monotonic() - link.heard
    if silent < DEAD_SECONDS:
        return f"they arrive, but {link.node} receives none of this node"
    return "none has arrived" if link.heard == -math.inf else f"the last one arrived {silent:.0f} s ago"


def _link_fix(here: Here, name: str) -> str:
    """Return the fix for the link with a node."""
    port = f"{ports.AGENT_HEARTBEAT}/udp"
    if here.beats.unbound:
        return f"ss -lunp 'sport = {ports.AGENT_HEARTBEAT}' shows another program at {port}; ip address shows addresses"
    if "another key" in here.beats.refused(name):
        return f"copy {paths.CLUSTER_KEY} of this node to {name}, then pgpoolctl apply on both"
    return f"open {port} between the nodes in both directions; nft list ruleset shows the rules of a host"


def _addresses(here: Here, checks: Checklist) -> None:
    """Check that host names have the addresses in use, and that nodes see this node at its address in cluster.yml."""
    named = [node for node in here.cluster.nodes if node.host]
    found = addresses.look_up(node.host for node in named)
    for node in named:
        why = addresses.changed(node, found, mine=node == here.me)
        fix = (
            "correct /etc/hosts or DNS on every node; then pgpoolctl apply on every node, and systemctl restart pgpool2"
        )
        checks.add(f"{node.host} resolves to the address in use for {node.name}", not why, why, fix)
    for node in here.cluster.nodes:
        address = plain.address(node.address)
        source = addresses.toward(address) if address is not None and node != here.me else None
        if source is not None:
            right = str(source) == here.me.address
            checks.add(
                f"this node connects to {node.name} from its own address",
                right,
                f"it connects from {source}, not {here.me.address}",
                f"ip route get {node.address} shows the source address in use. Put {source} "
                f"into {paths.CLUSTER_YML}, or set the source of the route",
            )


def _others(here: Here, checks: Checklist) -> None:
    """Check the network connections to other nodes that this node needs."""
    for node in here.cluster.nodes:
        if node == here.me:
            continue
        if Service.POSTGRESQL in node.runs:
            why = copy_source.refusal(node, Role.RECOVERY if Service.POSTGRESQL in here.me.runs else Role.CHECK)
            major = here.database.instance.name.major if here.database is not None else 0
            checks.add(
                f"PostgreSQL of {node.name} accepts logins from this node",
                not why,
                why,
                turned_away.fix(why, node, major),
            )
            if not why:
                _proves_itself(here, node, checks)
        open_ports = (pgpool.port(here.cluster), ports.WATCHDOG) if Service.PGPOOL in node.runs else ()
        for port in open_ports:
            why = _reaches(node.address, port)
            checks.add(
                f"{node.name} answers on {port}/tcp",
                not why,
                why,
                f"on {node.name}: systemctl status pgpool2; open {port}/tcp between the nodes",
            )


def _proves_itself(here: Here, node: Node, checks: Checklist) -> None:
    why = proof.refused_here(here.cluster, node)
    fix = CERTIFICATE_FIX if libpq.own_authority(here.cluster) else "pgpoolctl apply"
    checks.add(
        f"PostgreSQL of {node.name} presents a valid certificate",
        not why,
        why,
        f"on {node.name}: {fix}; upgrade pgpool2-cluster there if it is older",
    )
