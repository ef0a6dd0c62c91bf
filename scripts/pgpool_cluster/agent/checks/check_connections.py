"""Check the connections of this node to the other ones, their clocks and their addresses."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ...copying import copy_source
from ...decision.liveness.links import DEAD_SECONDS, Link, LinkState
from ...definition.cluster import Cluster, Node, Service
from ...definition.key import Role
from ...ground import paths, plain, ports
from ...machine import packages, pgpool
from ...machine.network import addresses
from ...node.node import Here
from ...operations import proof
from ...postgresql import libpq, turned_away
from ...transport import fresh_login, reach
from ...transport.protocol import ClockAnswer, ClockRequest
from .checklist import CERTIFICATE_FIX, Checklist

MOST_SKEW = 2.0
"""Seconds that two nodes' clocks may differ. pgpool-II's watchdog compares times, and people compare logs."""
_CLOCK_SECONDS = 2.5
"""Time limit for the answer of another agent, which needs tenths of a second, and more on an overloaded machine."""
_CONNECT_SECONDS = 1.5
"""Time limit for a connection to a port of another node; a lost packet is sent again after 1 s."""
_LOGIN_SECONDS = 2.5
_SSH_SECONDS = 6.0
"""Time limit for a new login over ssh, which takes tenths of a second, and seconds on an overloaded machine."""
_NAME_SECONDS = 1.0
"""Time limit for each of the two queries for a host name."""


@dataclass(frozen=True, slots=True)
class _Probed:
    """The connections to another node under way, each as a function that returns why it failed, "" if it works.

    `ssh`: a new login over ssh. `login`: the one to PostgreSQL and, if that works, the certificate; None without
    PostgreSQL.
    """

    ssh: Callable[[], str]
    login: Callable[[], tuple[str, str]] | None
    ports: Mapping[int, Callable[[], str]]


def between_nodes(here: Here, checks: Checklist) -> None:
    """Check what this node and the others need of each other. All waits are at the same time."""
    others = [node for node in here.cluster.nodes if node != here.me]
    workers = ThreadPoolExecutor(max_workers=4 * len(others) + 1)
    try:
        probed = {node.name: _probe(here, node, workers) for node in others}
        names = [node.host for node in here.cluster.nodes if node.host]
        resolved = workers.submit(addresses.look_up, names, seconds=_NAME_SECONDS)
        clocks = _peers(here, checks)
        _heartbeats(here, checks)
        _addresses(here, resolved.result(), checks)
        for node in others:
            _other(here, node, probed[node.name], checks, answers=node.name in clocks)
    finally:
        workers.shutdown(wait=False)  # nothing waits for a login to a host that does not reply


def _peers(here: Here, checks: Checklist) -> Mapping[str, ClockAnswer]:
    before = time.time()
    clocks = here.peers.ask_all(ClockRequest(), seconds=_CLOCK_SECONDS)
    after = time.time()
    mine, version = here.look().key, packages.version(paths.PACKAGE)
    for name, peer in here.peers.peers.items():
        checks.add(
            f"{name} answers over ssh", name in clocks, peer.problem or "no answer", reach.fix(peer.problem, name)
        )
        if name in clocks:
            _same(name, clocks[name], mine, version, checks)
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
    return clocks


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


def _same(name: str, answer: ClockAnswer, key: str, version: str, checks: Checklist) -> None:
    """Check whether another node has this node's key and version of the package."""
    checks.add(
        f"{name} has this node's cluster.key",
        answer.key == key,
        "its key differs, or has not been applied yet",
        f"copy {paths.CLUSTER_KEY} of this node to it, then pgpoolctl apply on both",
    )
    known = answer.package and version
    checks.add(
        f"{name} has this node's version of {paths.PACKAGE}",
        not known or answer.package == version,
        f"it has {answer.package}, this node {version}",
        f"apt install {paths.PACKAGE}, on the node with the older version",
    )


def _addresses(here: Here, found: addresses.Resolved, checks: Checklist) -> None:
    """Check that host names have the addresses in use, and that nodes see this node at its address in cluster.yml."""
    for node in (node for node in here.cluster.nodes if node.host):
        why = addresses.changed(node, found, mine=node == here.me)
        fix = (
            "correct /etc/hosts or DNS on every node; then pgpoolctl apply on every node, and systemctl restart pgpool2"
        )
        checks.add(f"{node.host} resolves to the address in use for {node.name}", not why, why, fix)
    own = plain.address(here.me.address)
    there = own is None or addresses.has(own)
    checks.add(
        f"this machine has the address {here.me.address}",
        there,
        "no interface has it",
        f"ip address shows those it has. Correct the interface or {paths.CLUSTER_YML}; IPv6 may be off: "
        "sysctl net.ipv6.conf.all.disable_ipv6",
    )
    for node in here.cluster.nodes if there else ():
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


def _probe(here: Here, node: Node, workers: ThreadPoolExecutor) -> _Probed:
    """Start the connections that this node needs to another one."""
    login = workers.submit(_login, here, node, _role(here)).result if Service.POSTGRESQL in node.runs else None
    ssh = workers.submit(fresh_login.refused, node.name, seconds=_SSH_SECONDS).result
    needed = _ports(here.cluster) if Service.PGPOOL in node.runs else ()
    reached = {port: workers.submit(_reaches, node.address, port).result for port in needed}
    return _Probed(ssh, login, reached)


def _ports(cluster: Cluster) -> tuple[int, ...]:
    return (pgpool.port(cluster), ports.WATCHDOG) if cluster.uses_watchdog else (pgpool.port(cluster),)


def _role(here: Here) -> Role:
    """Return the role with which this node logs in to others; a witness knows the password of one role only."""
    return Role.RECOVERY if Service.POSTGRESQL in here.me.runs else Role.CHECK


def _login(here: Here, node: Node, role: Role) -> tuple[str, str]:
    why = copy_source.refusal(node, role, until=time.monotonic() + _LOGIN_SECONDS)
    return why, "" if why else proof.refused_here(here.cluster, node)


def _reaches(address: str, port: int) -> str:
    """Return the reason why a TCP port does not accept a connection in time, "" if it does."""
    try:
        socket.create_connection((address, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _other(here: Here, node: Node, probed: _Probed, checks: Checklist, *, answers: bool) -> None:
    """Check the connections to another node. If it does not answer over ssh, that check has its own fix."""
    if answers:
        why = probed.ssh()
        checks.add(f"a new login over ssh to {node.name} works", not why, why, reach.fix(why, node.name))
    if probed.login is not None:
        why, unproven = probed.login()
        major = here.database.instance.name.major if here.database is not None else 0
        checks.add(
            f"PostgreSQL of {node.name} accepts logins from this node",
            not why,
            why,
            turned_away.fix(why, node, major, _role(here)),
        )
        if not why:
            _proves_itself(here, node, unproven, checks)
    for port, reached in probed.ports.items():
        why = reached()
        fix = f"on {node.name}: systemctl status pgpool2; open {port}/tcp between the nodes"
        checks.add(f"{node.name} answers on {port}/tcp", not why, why, fix)


def _proves_itself(here: Here, node: Node, why: str, checks: Checklist) -> None:
    fix = CERTIFICATE_FIX if libpq.own_authority(here.cluster) else "pgpoolctl apply"
    checks.add(
        f"PostgreSQL of {node.name} presents a valid certificate",
        not why,
        why,
        f"on {node.name}: {fix}; upgrade pgpool2-cluster there if it is older",
    )
