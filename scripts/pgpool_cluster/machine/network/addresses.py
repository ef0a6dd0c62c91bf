"""Resolve the host names of cluster.yml: `pgpoolctl apply` looks them up and writes the addresses into paths.HOSTS.

sshd, pg_hba.conf, the packet filter and the watchdog identify a node by the source address of its connection, so no
file but cluster.yml holds a host name. If the name server does not answer, as may happen at boot, the addresses
written last stay in force.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ...definition.cluster import Cluster, Node
from ...definition.document import Place
from ...ground import paths, plain, programs
from ...ground.errors import UsageError
from ...ground.programs import ProgramError

_LOOKUP_SECONDS = 5.0
"""Time limit for one run of getent(1)."""
_HINT = "add it to DNS, or to /etc/hosts on every node; an address in cluster.yml needs neither"
Resolved = Mapping[str, Sequence[plain.Address]]
"""All addresses that each host name resolved to."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The two questions that `settle` asks this machine.

    `has`: is this one of its own addresses? `toward`: which source address does it use to reach another address?
    """

    has: Callable[[plain.Address], bool]
    toward: Callable[[plain.Address], plain.Address | None]


@dataclass(frozen=True, slots=True)
class Settled:
    """The cluster with an address for every node; `notes` names hosts that did not resolve and kept their address."""

    cluster: Cluster
    notes: tuple[str, ...] = ()


def laid() -> dict[str, str]:
    """Return the addresses that `apply` wrote last, by host name; empty before the first run."""
    with contextlib.suppress(OSError):
        return parse(paths.HOSTS.read_text(encoding="ascii", errors="replace"))
    return {}


def parse(text: str) -> dict[str, str]:
    """Read hosts(5) lines with one name each; other lines are ignored."""
    rows = (line.split("#")[0].split() for line in text.splitlines())
    return {row[1]: str(address) for row in rows if len(row) > 1 and (address := plain.address(row[0])) is not None}


def placed(cluster: Cluster, addresses: Mapping[str, str]) -> Cluster:
    """Return the cluster with these addresses for host names; a node whose name is not listed stays unresolved."""
    nodes = tuple(replace(node, address=addresses.get(node.host, node.address)) for node in cluster.nodes)
    return replace(cluster, nodes=nodes)


def look_up(hosts: Iterable[str], *, seconds: float = _LOOKUP_SECONDS) -> dict[str, tuple[plain.Address, ...]]:
    """Resolve all host names in parallel; a name that does not resolve gets an empty tuple.

    `seconds` limit each of the two queries for a name: a silent name server takes twice as long.
    """
    names = sorted(set(hosts))
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as workers:
        return dict(zip(names, workers.map(lambda name: _known(name, seconds), names), strict=True))


def _known(name: str, seconds: float) -> tuple[plain.Address, ...]:
    """Resolve a name, and ask DNS as well if the only answer is a loopback address.

    Debian's installer writes `127.0.1.1 NAME` into /etc/hosts, which hides the entry in DNS.
    """
    found = _getent(name, seconds)
    return found if not found or usable(found) else found + _getent(name, seconds, "--service=hosts:dns")


def _getent(name: str, seconds: float, *options: str) -> tuple[plain.Address, ...]:
    """Resolve with getent(1), which can be killed: the resolver waits half a minute for silent name servers."""
    command = ["getent", "--no-addrconfig", *options, "ahosts", name]
    try:
        answer = programs.attempt(command, seconds=seconds)
    except ProgramError:
        return ()
    addresses = (plain.address(line.split()[0]) for line in answer.stdout.splitlines() if line.split())
    return tuple(dict.fromkeys(address for address in addresses if address is not None))


def usable(found: Iterable[plain.Address]) -> list[plain.Address]:
    """Return the addresses that other machines can reach, in the same order on every node: IPv4 first, then numeric."""
    kept = {address for address in found if plain.is_of_a_host(address) and not address.is_loopback}
    return sorted(kept, key=lambda address: (address.version, int(address)))


def settle(cluster: Cluster, me: Node, resolved: Resolved, before: Mapping[str, str], machine: Machine) -> Settled:
    """Choose one address per node, the same on every node of the cluster; raises UsageError with cluster.yml's line.

    `before` holds the addresses in force. A name that no longer resolves keeps its address. If the new answers do not
    make a valid cluster, every name keeps its address.
    """
    _refuse_loopback(cluster)
    named = [node.host for node in cluster.nodes if node.host]
    try:
        return _settled(cluster, me, resolved, before, machine)
    except UsageError as error:
        if named and all(host in before for host in named):
            note = f"{error.message}: keeping the addresses in use"
            return Settled(placed(cluster, before), (note,))
        raise


def _refuse_loopback(cluster: Cluster) -> None:
    node = next((node for node in cluster.nodes if not node.host and node.ip.is_loopback), None)
    if node is not None and len(cluster.nodes) > 1:
        hint = "choose one in the network between the nodes: ip address lists them"
        raise _place(node).error(f"{node.name} has an address that no other node can reach: {node.address}", hint=hint)


def _settled(cluster: Cluster, me: Node, resolved: Resolved, before: Mapping[str, str], machine: Machine) -> Settled:
    notes = []
    choices: dict[str, list[plain.Address]] = {}
    for node in cluster.nodes:
        choice = [node.ip] if not node.host else usable(resolved.get(node.host, ()))
        known = plain.address(before.get(node.host, ""))
        if not choice and known is not None and (node.name != me.name or machine.has(known)):
            choice = [known]
            if node.name != me.name:
                notes.append(f"{why_not(node, resolved)}: keeping {known}")
        if not choice and node.name != me.name:
            raise _place(node).error(why_not(node, resolved), hint=_HINT)
        choices[node.name] = choice
    if not choices[me.name]:
        others = [choices[node.name] for node in cluster.nodes if node.name != me.name]
        choices[me.name] = _own(cluster, others, machine)
    if not choices[me.name]:
        raise _place(me).error(why_not(me, resolved), hint=_HINT)
    family = _family(cluster, choices)
    addresses = {
        node.host: str(next(address for address in choices[node.name] if address.version == family))
        for node in cluster.nodes
        if node.host
    }
    settled = placed(cluster, addresses)
    _refuse_doubles(settled)
    return Settled(settled, tuple(notes))


def why_not(node: Node, resolved: Resolved) -> str:
    """Return one sentence that says why a host name gives no usable address."""
    seen = ", ".join(map(str, resolved.get(node.host, ())))
    problem = f"is {seen} on this machine, which no other node can reach" if seen else "is not found"
    return f"{node.host}, the address of {node.name}, {problem}"


def _own(cluster: Cluster, others: Sequence[Sequence[plain.Address]], machine: Machine) -> list[plain.Address]:
    """Return the source addresses with which this machine reaches the others, since the others see exactly these."""
    if not others:
        return [ipaddress.IPv4Address("127.0.0.1")]
    virtual = cluster.virtual_ip.ip if cluster.virtual_ip else None
    sources = [machine.toward(peer) for choice in others for peer in choice]
    return usable(source for source in sources if source is not None and source != virtual)


def _family(cluster: Cluster, choices: Mapping[str, Sequence[plain.Address]]) -> int:
    """Return the address family that all nodes share, IPv4 if they share both."""
    families = {name: {address.version for address in choice} for name, choice in choices.items()}
    common = set.intersection(*families.values())
    if common:
        return min(common)
    first, *rest = cluster.nodes
    other = next((node for node in rest if not families[node.name] & families[first.name]), rest[0])
    theirs, others = (" and ".join(f"IPv{version}" for version in families[node.name]) for node in (other, first))
    raise _place(other).error(
        f"{other.written} has {theirs} addresses only, {first.written} has {others} ones",
        hint="all nodes need an address of the same family",
    )


def _refuse_doubles(cluster: Cluster) -> None:
    seen = {str(cluster.virtual_ip.ip): "virtual_ip"} if cluster.virtual_ip else {}
    for node in cluster.nodes:
        first = seen.setdefault(node.address, node.name)
        if first != node.name:
            reason = f"{node.written}, the address of {node.name}, is {node.address}, as is that of {first}"
            raise _place(node).error(reason, hint="every node needs an address of its own, other than virtual_ip")


def _place(node: Node) -> Place:
    return Place(str(paths.CLUSTER_YML), node.line)


def changed(node: Node, resolved: Resolved, *, mine: bool) -> str:
    """Return how a node's host name disagrees with the address in force, "" if it agrees.

    `mine`: this is the node's own name, which may resolve to loopback, as Debian's installer sets it up.
    """
    seen = resolved.get(node.host, ())
    known = usable(seen)
    if not known:
        return "" if mine and seen else why_not(node, resolved)
    if plain.address(node.address) in known:
        return ""
    return f"{node.host} is {', '.join(map(str, known))} now, but {node.address} is in use"


def has(address: plain.Address) -> bool:
    """Return whether this machine has the address."""
    with contextlib.suppress(OSError), _socket(address) as probe:
        probe.bind((str(address), 0))
        return True
    return False


def toward(address: plain.Address) -> plain.Address | None:
    """Return the source address this machine would use to reach `address`, None without a route; sends nothing."""
    with contextlib.suppress(OSError), _socket(address) as probe:
        probe.connect((str(address), 9))
        return plain.address(str(probe.getsockname()[0]))
    return None


def _socket(address: plain.Address) -> socket.socket:
    return socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)


THIS = Machine(has, toward)
