"""From the host names in cluster.yml to addresses: `pgpoolctl apply` looks them up, and lays them down.

sshd, pg_hba.conf, the packet filter and the watchdog tell nodes apart by the address that a connection comes from, so
a name goes no further than cluster.yml. Where a name server is silent, as it may be at boot, what was laid down stays.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from . import paths, plain
from .cluster import Cluster, Node
from .document import Place
from .errors import UsageError

_SECONDS = 5.0
_HINT = "/etc/hosts or DNS has to have it, on every node; an address in cluster.yml needs neither"
Found = Mapping[str, Sequence[plain.Address]]
"""Every address that a host name was found to have."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What `settle` asks of a machine. `has`: it has an address; `toward`: from which one it would reach another."""

    has: Callable[[plain.Address], bool]
    toward: Callable[[plain.Address], plain.Address | None]


@dataclass(frozen=True, slots=True)
class Settled:
    """The cluster with an address for every node; `notes` name what was not found and stays as it was laid down."""

    cluster: Cluster
    notes: tuple[str, ...] = ()


def laid() -> dict[str, str]:
    """Return the addresses that were laid down, by host name; none before the first time."""
    with contextlib.suppress(OSError):
        return parse(paths.HOSTS.read_text(encoding="ascii", errors="replace"))
    return {}


def parse(text: str) -> dict[str, str]:
    """Read lines as in hosts(5), one name each; whatever is none is left out."""
    rows = (line.split("#")[0].split() for line in text.splitlines())
    return {row[1]: str(found) for row in rows if len(row) > 1 and (found := plain.address(row[0])) is not None}


def placed(cluster: Cluster, addresses: Mapping[str, str]) -> Cluster:
    """Return the cluster with these addresses for host names; a node whose name is not among them stays without."""
    nodes = tuple(replace(node, address=addresses.get(node.host, node.address)) for node in cluster.nodes)
    return replace(cluster, nodes=nodes)


def look_up(hosts: Iterable[str]) -> dict[str, tuple[plain.Address, ...]]:
    """Ask for all host names at once, for at most 10 s; a name that is not known has no address."""
    names = sorted(set(hosts))
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as workers:
        return dict(zip(names, workers.map(_known, names), strict=True))


def _known(name: str) -> tuple[plain.Address, ...]:
    """Debian's installer writes `127.0.1.1 NAME` into /etc/hosts, which then hides what a name server has."""
    found = _getent(name)
    return found if not found or usable(found) else found + _getent(name, "--service=hosts:dns")


def _getent(name: str, *options: str) -> tuple[plain.Address, ...]:
    """Ask with getent(1), which can be ended: a resolver whose name servers are silent waits for half a minute."""
    command = ["getent", "--no-addrconfig", *options, "ahosts", name]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = (plain.address(line.split()[0]) for line in answer.stdout.splitlines() if line.split())
    return tuple(dict.fromkeys(one for one in found if one is not None))


def usable(found: Iterable[plain.Address]) -> list[plain.Address]:
    """Return those that other machines can reach, in the same order on every node: IPv4 first, then by number."""
    kept = {one for one in found if plain.is_of_a_host(one) and not one.is_loopback}
    return sorted(kept, key=lambda one: (one.version, int(one)))


def settle(cluster: Cluster, me: Node, found: Found, before: Mapping[str, str], machine: Machine) -> Settled:
    """Give every node its address, the same on every node of the cluster; raises UsageError with cluster.yml's line.

    `before`: what is laid down; it stays for a name that is not found any more, and all of it where what was found
    makes no cluster.
    """
    _refuse_loopback(cluster)
    named = [node.host for node in cluster.nodes if node.host]
    try:
        return _settled(cluster, me, found, before, machine)
    except UsageError as error:
        if named and all(host in before for host in named):
            note = f"{error.message}: the addresses that are laid down stay in force"
            return Settled(placed(cluster, before), (note,))
        raise


def _refuse_loopback(cluster: Cluster) -> None:
    node = next((node for node in cluster.nodes if not node.host and node.ip.is_loopback), None)
    if node is not None and len(cluster.nodes) > 1:
        hint = "one of the network between the nodes: ip address shows them"
        raise _place(node).error(f"{node.name} has an address that no other node can reach: {node.address}", hint=hint)


def _settled(cluster: Cluster, me: Node, found: Found, before: Mapping[str, str], machine: Machine) -> Settled:
    notes = []
    choices: dict[str, list[plain.Address]] = {}
    for node in cluster.nodes:
        choice = [node.ip] if not node.host else usable(found.get(node.host, ()))
        known = plain.address(before.get(node.host, ""))
        if not choice and known is not None and (node.name != me.name or machine.has(known)):
            choice = [known]
            if node.name != me.name:
                notes.append(f"{why_not(node, found)}: {known}, as it is laid down, stays in force")
        if not choice and node.name != me.name:
            raise _place(node).error(why_not(node, found), hint=_HINT)
        choices[node.name] = choice
    if not choices[me.name]:
        others = [choices[node.name] for node in cluster.nodes if node.name != me.name]
        choices[me.name] = _own(cluster, others, machine)
    if not choices[me.name]:
        raise _place(me).error(why_not(me, found), hint=_HINT)
    family = _family(cluster, choices)
    addresses = {
        node.host: str(next(one for one in choices[node.name] if one.version == family))
        for node in cluster.nodes
        if node.host
    }
    settled = placed(cluster, addresses)
    _refuse_doubles(settled)
    return Settled(settled, tuple(notes))


def why_not(node: Node, found: Found) -> str:
    """Say what a host name lacks."""
    seen = ", ".join(map(str, found.get(node.host, ())))
    lacks = f"is {seen} on this machine, which no other node can reach" if seen else "is not found"
    return f"{node.host}, the address of {node.name}, {lacks}"


def _own(cluster: Cluster, others: Sequence[Sequence[plain.Address]], machine: Machine) -> list[plain.Address]:
    """Return the addresses from which this machine reaches the others: those are what they see of it."""
    if not others:
        return [ipaddress.IPv4Address("127.0.0.1")]
    virtual = cluster.virtual_ip.ip if cluster.virtual_ip else None
    found = [machine.toward(peer) for choice in others for peer in choice]
    return usable(one for one in found if one is not None and one != virtual)


def _family(cluster: Cluster, choices: Mapping[str, Sequence[plain.Address]]) -> int:
    """Return the family that all nodes have, IPv4 where they have both."""
    families = {name: {one.version for one in choice} for name, choice in choices.items()}
    common = set.intersection(*families.values())
    if common:
        return min(common)
    first, *rest = cluster.nodes
    other = next((node for node in rest if not families[node.name] & families[first.name]), rest[0])
    wanting, having = (" and ".join(f"IPv{version}" for version in families[one.name]) for one in (other, first))
    raise _place(other).error(
        f"{other.written} has {wanting} addresses only, {first.written} has {having} ones",
        hint="all nodes need an address of the same family",
    )


def _refuse_doubles(cluster: Cluster) -> None:
    seen = {str(cluster.virtual_ip.ip): "virtual_ip"} if cluster.virtual_ip else {}
    for node in cluster.nodes:
        first = seen.setdefault(node.address, node.name)
        if first != node.name:
            reason = f"{node.written}, the address of {node.name}, is {node.address}, as is that of {first}"
            raise _place(node).error(reason, hint="every node is a server of its own, and virtual_ip is nobody's")


def _place(node: Node) -> Place:
    return Place(str(paths.CLUSTER_YML), node.line)


def changed(node: Node, found: Found, *, mine: bool) -> str:
    """Return what speaks against the address that is in force for a node's host name, "" for nothing.

    A node's own name may be a loopback address there, as Debian's installer has it.
    """
    seen = found.get(node.host, ())
    known = usable(seen)
    if not known:
        return "" if mine and seen else why_not(node, found)
    if plain.address(node.address) in known:
        return ""
    return f"{node.host} is {', '.join(map(str, known))} now, and {node.address} is in force"


def has(address: plain.Address) -> bool:
    """Tell whether this machine has the address."""
    with contextlib.suppress(OSError), _socket(address) as probe:
        probe.bind((str(address), 0))
        return True
    return False


def toward(address: plain.Address) -> plain.Address | None:
    """Return the address from which this machine would reach another, None if it has no way there; sends nothing."""
    with contextlib.suppress(OSError), _socket(address) as probe:
        probe.connect((str(address), 9))
        return plain.address(str(probe.getsockname()[0]))
    return None


def _socket(address: plain.Address) -> socket.socket:
    return socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)


THIS = Machine(has, toward)
