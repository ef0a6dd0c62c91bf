"""Parse the text of cluster.yml into a `Cluster`.

The first fault ends the parsing with a `UsageError`: FILE:LINE, the reason, and a hint.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..ground import plain, ports
from ..ground.errors import ServerError
from . import document
from .cluster import PRIORITY, Archive, Cluster, Mode, Node, Parameter, PostgresqlCluster, Service, Tls
from .document import Entry, Mapping, Scalar, Sequence, Value

MOST_NODES = 128
"""pgpool-II's MAX_NUM_BACKENDS and MAX_WATCHDOG_NUM, 4.3 to 4.7."""

KEYS = (
    "name",
    "mode",
    "postgresql",
    "nodes",
    "clients",
    "virtual_ip",
    "tls",
    "synchronous",
    "pgpool",
    "postgresql_conf",
    "archive",
    "return",
)
NODE_KEYS = ("address", "port", "weight", "runs", "failover_priority", "nofailover")
FAILOVER_KEYS = ("failover_priority", "nofailover")
HIGHEST_PRIORITY = 1000
TLS_KEYS = ("certificate", "key", "ca")
ARCHIVE_KEYS = ("compress", "keep_hours", "timeout")
LONGEST_KEEP_HOURS = 8760
"""One year."""
LONGEST_TIMEOUT_SECONDS = 86400
"""One day."""
FORBIDDEN_PGPOOL = {
    "wd_authkey": "it follows from cluster.key",
    "backend_clustering_mode": "it follows from mode",
    "include": "pgpool.conf beside it is included already",
}


def load(path: Path, host_name: str) -> Cluster:
    """Read cluster.yml; raises UsageError for a fault in it, ServerError if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror}", hint="run pgpoolctl as root") from error
    except UnicodeDecodeError as error:
        raise document.Place(str(path), 1).error("not UTF-8 text", hint="save it as UTF-8") from error
    return parse(text, str(path), host_name)


def parse(text: str, file: str, host_name: str) -> Cluster:
    """Return the cluster that `text` describes; without `nodes:` it has one node, `host_name` at 127.0.0.1."""
    root = document.parse(text, file)
    keys = _known(root, KEYS)
    mode = _mode(keys.get("mode"))
    nodes = _nodes(keys.get("nodes"), host_name)
    _check_runs(nodes, root)
    _check_failover(keys.get("nodes"), nodes, mode)
    return Cluster(
        name=_word(keys.get("name"), plain.is_cluster_name, "name", "main") or "main",
        mode=mode,
        postgresql=_postgresql(keys.get("postgresql")),
        nodes=nodes,
        clients=_clients(keys.get("clients"), nodes),
        virtual_ip=_virtual_ip(keys.get("virtual_ip"), nodes),
        tls=_tls(keys.get("tls")),
        synchronous=_synchronous(keys.get("synchronous"), mode, nodes),
        pgpool=_parameters(keys.get("pgpool"), "pgpool", _check_pgpool),
        postgresql_conf=_parameters(keys.get("postgresql_conf"), "postgresql_conf", lambda _: None),
        archive=_archive(keys.get("archive"), mode),
        automatic_return=_automatic_return(keys.get("return"), mode),
    )


def _known(mapping: Mapping, known: Iterable[str]) -> dict[str, Entry]:
    """Return the entries by key without those that have no value; raises UsageError for a key outside `known`."""
    names = list(known)
    for entry in mapping.entries:
        if entry.key not in names:
            near = difflib.get_close_matches(entry.key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(names)}"
            raise entry.place.error(f"unknown key {entry.key!r}", hint=hint)
    return {
        entry.key: entry for entry in mapping.entries if not (isinstance(entry.value, Scalar) and entry.value.empty)
    }


def _scalar(value: Value, what: str, example: str) -> Scalar:
    if not isinstance(value, Scalar) or value.empty:
        raise value.place.error(f"{what} must be one word, not a list or keys", hint=f"for example: {example}")
    return value


def _mapping(value: Value, what: str, example: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise value.place.error(f"{what} needs keys with values", hint=f"for example: {example}")
    return value


def _words(value: Value, what: str, example: str) -> list[Scalar]:
    if not isinstance(value, Sequence):
        raise value.place.error(f"{what} must be a list", hint=f"for example: {example}")
    return [_scalar(item, what, example) for item in value.items]


def _word(entry: Entry | None, good: Callable[[str], bool], what: str, example: str) -> str | None:
    if entry is None:
        return None
    scalar = _scalar(entry.value, what, example)
    if not good(scalar.text):
        reason = f"{what} {scalar.text!r} has characters that are not allowed"
        raise scalar.place.error(reason, hint=f"for example: {example}")
    return scalar.text


def _number(scalar: Scalar, what: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", scalar.text) or not least <= int(scalar.text) <= most:
        raise scalar.place.error(f"{what} is {scalar.text!r}", hint=f"a whole number from {least} to {most}")
    return int(scalar.text)


def _mode(entry: Entry | None) -> Mode:
    if entry is None:
        return Mode.STREAMING_REPLICATION
    scalar = _scalar(entry.value, "mode", "streaming_replication")
    names = [mode.value for mode in Mode]
    if scalar.text not in names:
        raise scalar.place.error(f"unknown mode {scalar.text!r}", hint=f"one of {', '.join(names)}")
    return Mode(scalar.text)


def _postgresql(entry: Entry | None) -> PostgresqlCluster | None:
    if entry is None:
        return None
    scalar = _scalar(entry.value, "postgresql", "17/main")
    major, _, name = scalar.text.partition("/")
    if not re.fullmatch(r"[1-9][0-9]", major) or not plain.is_cluster_name(name or "main"):
        hint = "as pg_lsclusters shows it: 17/main"
        raise scalar.place.error(f"postgresql {scalar.text!r} is not a version with a cluster name", hint=hint)
    return PostgresqlCluster(int(major), name or "main")


def _nodes(entry: Entry | None, host_name: str) -> tuple[Node, ...]:
    if entry is None:
        name = host_name if len(host_name) <= plain.LONGEST_NODE_NAME else host_name.split(".", 1)[0]
        return (Node(0, name, "127.0.0.1", ports.POSTGRESQL, 1.0, frozenset(Service)),)
    mapping = _mapping(entry.value, "nodes", "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}")
    if not 1 <= len(mapping.entries) <= MOST_NODES:
        raise mapping.place.error(f"{len(mapping.entries)} nodes", hint=f"from 1 to {MOST_NODES} nodes")
    nodes = tuple(_node(number, item) for number, item in enumerate(mapping.entries))
    _refuse_doubles(nodes, mapping)
    _refuse_two_families(nodes, mapping)
    return nodes


def _node(number: int, entry: Entry) -> Node:
    if not plain.is_host_name(entry.key):
        hint = "use the node's host name: lower-case letters, digits, hyphens, dots"
        raise entry.place.error(f"node name {entry.key!r} is not a host name", hint=hint)
    if len(entry.key) > plain.LONGEST_NODE_NAME:
        raise entry.place.error(
            f"node name {entry.key!r} has {len(entry.key)} characters; PostgreSQL's slots and standbys allow at most "
            f"{plain.LONGEST_NODE_NAME}",
            hint=f"shorten it to the first dot, here and with hostnamectl: {entry.key.split('.', 1)[0]}",
        )
    line = entry.place.line
    if isinstance(entry.value, Scalar):
        address, host = _address(entry.value)
        return Node(number, entry.key, address, ports.POSTGRESQL, 1.0, frozenset(Service), host, line)
    keys = _known(_mapping(entry.value, f"node {entry.key}", "pg1: {address: 10.0.0.1}"), NODE_KEYS)
    if "address" not in keys:
        raise entry.place.error(f"node {entry.key} has no address", hint="for example: {address: 10.0.0.1}")
    address, host = _address(_scalar(keys["address"].value, "address", "10.0.0.1"))
    return Node(
        number,
        entry.key,
        address,
        _port(keys.get("port")),
        _weight(keys.get("weight")),
        _runs(keys.get("runs")),
        host,
        line,
        _priority(keys.get("failover_priority")),
        _truth(keys["nofailover"], "nofailover") if "nofailover" in keys else False,
    )


def _address(scalar: Scalar) -> tuple[str, str]:
    """Return the address and the host name to resolve; the host name is "" if `scalar` is an IP address."""
    found = plain.address(scalar.text)
    if found is not None and plain.is_of_a_host(found):
        return str(found), ""
    if found is None and plain.is_host_name(scalar.text):
        return scalar.text, scalar.text
    raise scalar.place.error(
        f"{scalar.text!r} is not an address or a host name", hint="for example: 10.0.0.1, fd00::1 or pg1.example.org"
    )


def _port(entry: Entry | None) -> int:
    if entry is None:
        return ports.POSTGRESQL
    return _number(_scalar(entry.value, "port", str(ports.POSTGRESQL)), "port", 1, 65535)


def _weight(entry: Entry | None) -> float:
    if entry is None:
        return 1.0
    scalar = _scalar(entry.value, "weight", "1")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", scalar.text):
        raise scalar.place.error(f"weight is {scalar.text!r}", hint="a number from 0, relative to the other nodes")
    return float(scalar.text)


def _priority(entry: Entry | None) -> int:
    if entry is None:
        return PRIORITY
    scalar = _scalar(entry.value, "failover_priority", str(PRIORITY))
    return _number(scalar, "failover_priority", 0, HIGHEST_PRIORITY)


def _runs(entry: Entry | None) -> frozenset[Service]:
    if entry is None:
        return frozenset(Service)
    names = [service.value for service in Service]
    words = _words(entry.value, "runs", "[postgresql, pgpool]")
    for word in words:
        if word.text not in names:
            raise word.place.error(f"a node cannot run {word.text!r}", hint=f"it runs {' or '.join(names)} or both")
    if not words:
        raise entry.place.error("the node runs nothing", hint=f"it runs {' or '.join(names)} or both")
    return frozenset(Service(word.text) for word in words)


def _refuse_doubles(nodes: tuple[Node, ...], mapping: Mapping) -> None:
    hint = "every node needs an address of its own, and a name that differs in more than hyphens and dots"
    seen: dict[tuple[str, str], str] = {}
    for node, entry in zip(nodes, mapping.entries, strict=True):
        for what, value in (("address", node.address), ("slot name", node.slot)):
            first = seen.setdefault((what, value), node.name)
            if first != node.name:
                raise entry.place.error(f"{node.name} has the {what} of {first}: {value}", hint=hint)


def _refuse_two_families(nodes: tuple[Node, ...], mapping: Mapping) -> None:
    """Raise UsageError if the nodes mix IPv4 and IPv6.

    Nodes identify each other by source address, which has the same family as the destination.
    """
    known = [node for node in nodes if not node.host]
    for node in known:
        if node.ip.version != known[0].ip.version:
            raise mapping.entries[node.id].place.error(
                f"{node.name} has an IPv{node.ip.version} address, {known[0].name} an IPv{known[0].ip.version} address",
                hint="use one family for all nodes; clients and virtual_ip may use the other",
            )


def _check_runs(nodes: tuple[Node, ...], root: Mapping) -> None:
    for service in Service:
        if not any(service in node.runs for node in nodes):
            raise root.place.error(f"no node runs {service}", hint=f"at least one node needs runs: [{service}]")


def _check_failover(entry: Entry | None, nodes: tuple[Node, ...], mode: Mode) -> None:
    """Raise UsageError for a key about failover where no standby can be promoted, or if it excludes every node."""
    if entry is None or not isinstance(entry.value, Mapping):
        return
    for node, item in zip(nodes, entry.value.entries, strict=True):
        for key in item.value.entries if isinstance(item.value, Mapping) else ():
            if key.key in FAILOVER_KEYS and not mode.streams:
                hint = "leave it out: in this mode every node is a primary"
                raise key.place.error(f"{key.key} has no meaning in mode {mode}", hint=hint)
            if key.key in FAILOVER_KEYS and Service.POSTGRESQL not in node.runs:
                hint = "leave it out: this node runs no PostgreSQL"
                raise key.place.error(f"{key.key} has no meaning for {node.name}", hint=hint)
    if all(node.nofailover for node in nodes if Service.POSTGRESQL in node.runs):
        hint = "leave it out for at least one node, preferably for two"
        raise entry.place.error("every node has nofailover, so none could become the primary", hint=hint)


def _clients(entry: Entry | None, nodes: tuple[Node, ...]) -> tuple[plain.Network, ...]:
    if entry is None:
        addresses = [plain.address(node.address) for node in nodes]
        return tuple(ipaddress.ip_network(address) for address in addresses if address is not None)
    return tuple(dict.fromkeys(_network(word) for word in _words(entry.value, "clients", "[10.0.0.0/24]")))


def _network(scalar: Scalar) -> plain.Network:
    try:
        loose = ipaddress.ip_network(scalar.text, strict=False)
    except ValueError as error:
        hint = "a network in CIDR notation, for example: 10.0.0.0/24"
        raise scalar.place.error(f"{scalar.text!r} is not a network", hint=hint) from error
    if str(loose.network_address) != str(ipaddress.ip_address(scalar.text.split("/")[0])):
        raise scalar.place.error(f"{scalar.text!r} has bits beyond its mask", hint=f"the network is {loose}")
    return loose


def _virtual_ip(entry: Entry | None, nodes: tuple[Node, ...]) -> plain.Interface | None:
    if entry is None:
        return None
    scalar = _scalar(entry.value, "virtual_ip", "10.0.0.50/24")
    address, _, mask = scalar.text.partition("/")
    found = plain.address(address)
    if found is None or not re.fullmatch(r"[0-9]{1,3}", mask) or not 1 <= int(mask) <= found.max_prefixlen:
        hint = "an address with the prefix length of its network: 10.0.0.50/24"
        raise scalar.place.error(f"virtual_ip {scalar.text!r} is not an address with a prefix length", hint=hint)
    if not plain.is_of_a_host(found):
        hint = "choose an address in the clients' network: 10.0.0.50/24 or fd00::50/64"
        raise scalar.place.error(f"clients cannot reach virtual_ip {scalar.text!r}", hint=hint)
    for node in nodes:
        if node.address == str(found):
            raise scalar.place.error(f"virtual_ip is the address of {node.name}", hint="choose an unused address")
    return ipaddress.ip_interface(scalar.text)


def _tls(entry: Entry | None) -> Tls | None:
    if entry is None:
        return None
    example = "tls: {certificate: /etc/ssl/db.pem, key: /etc/ssl/private/db.key}"
    keys = _known(_mapping(entry.value, "tls", example), TLS_KEYS)
    words = {name: _word(keys.get(name), plain.is_path, name, "/etc/ssl/certs/db.pem") for name in TLS_KEYS}
    certificate, key = words["certificate"], words["key"]
    if certificate is None or key is None:
        raise entry.place.error("tls needs both certificate and key", hint=f"for example: {example}")
    return Tls(certificate, key, words["ca"])


def _synchronous(entry: Entry | None, mode: Mode, nodes: tuple[Node, ...]) -> int:
    databases = sum(Service.POSTGRESQL in node.runs for node in nodes)
    if entry is None:
        return 1 if mode.streams and databases >= 3 else 0
    scalar = _scalar(entry.value, "synchronous", "1")
    number = _number(scalar, "synchronous", 0, max(databases - 1, 0))
    if number and not mode.streams:
        hint = "leave it out: in this mode pgpool-II itself writes to every node before it answers"
        raise scalar.place.error(f"synchronous has no meaning in mode {mode}", hint=hint)
    return number


def _automatic_return(entry: Entry | None, mode: Mode) -> bool:
    if entry is None:
        return True
    scalar = _scalar(entry.value, "return", "automatic")
    if scalar.text not in ("automatic", "manual"):
        raise scalar.place.error(f"return is {scalar.text!r}", hint="automatic or manual")
    if not mode.streams:
        hint = "leave it out: in this mode native-replication.md says which nodes are rebuilt without a command"
        raise scalar.place.error(f"return has no meaning in mode {mode}", hint=hint)
    return scalar.text == "automatic"


def _archive(entry: Entry | None, mode: Mode) -> Archive:
    default = Archive()
    if entry is None:
        return default
    keys = _known(_mapping(entry.value, "archive", "archive: {compress: true, keep_hours: 48}"), ARCHIVE_KEYS)
    if mode.streams:
        hint = "leave it out: in this mode replication slots keep the WAL that another node needs"
        raise entry.place.error(f"archive has no meaning in mode {mode}", hint=hint)

    def number(name: str, default: int, most: int) -> int:
        return _number(_scalar(keys[name].value, name, str(default)), name, 1, most) if name in keys else default

    return Archive(
        compress=_truth(keys["compress"], "compress") if "compress" in keys else default.compress,
        keep_hours=number("keep_hours", default.keep_hours, LONGEST_KEEP_HOURS),
        timeout=number("timeout", default.timeout, LONGEST_TIMEOUT_SECONDS),
    )


def _truth(entry: Entry, what: str) -> bool:
    scalar = _scalar(entry.value, what, "true")
    if scalar.text not in ("true", "false"):
        raise scalar.place.error(f"{what} is {scalar.text!r}", hint="true or false")
    return scalar.text == "true"


def _parameters(entry: Entry | None, what: str, check: Callable[[Entry], None]) -> tuple[Parameter, ...]:
    if entry is None:
        return ()
    found = []
    for item in _mapping(entry.value, what, f"{what}: {{name: value}}").entries:
        if not plain.is_parameter(item.key):
            raise item.place.error(f"{item.key!r} is not a parameter name", hint="letters, digits and underscores")
        check(item)
        if not isinstance(item.value, Scalar) or not plain.is_one_line(item.value.text):
            raise item.place.error(f"{item.key} needs one value on one line", hint="quote a value that contains commas")
        found.append(Parameter(item.key, item.value.text))
    return tuple(found)


def _check_pgpool(entry: Entry) -> None:
    if entry.key in FORBIDDEN_PGPOOL:
        raise entry.place.error(f"{entry.key} cannot be set here", hint=FORBIDDEN_PGPOOL[entry.key])
    if isinstance(entry.value, Scalar) and "'" in entry.value.text:
        hint = "pgpool.conf has no syntax for an apostrophe inside a value"
        raise entry.value.place.error(f"{entry.key} contains an apostrophe", hint=hint)
