"""Find the lines of pg_hba.conf that lose their effect by an installation. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ...ground import plain
from .existing_server import ExistingServer, PlannedConfiguration, Rule
from .finding import Finding, Kind

_PASSWORDS = ("scram-sha-256", "md5", "password")
_HOST_TYPES = ("host", "hostssl")


def rules(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Yield the lines of pg_hba.conf that lose their effect to the cluster's lines at the top."""
    for node in plan.nodes:
        for rule in seen.rules:
            if rule.type not in _HOST_TYPES or not _covers(rule, node):
                continue
            if rule.method not in _PASSWORDS:
                what = f"{rule}: over TLS, connections from nodes require a password instead"
                yield Finding(Kind.CHANGED, "pg_hba.conf", what)
            if "all" in rule.databases and "all" in rule.users:
                break
    for rule in seen.rules:
        if rule.type == "local" and {"all", "postgres"} & set(rule.users):
            if rule.method != "peer":
                what = f"{rule}: the role postgres authenticates as its system user instead (peer)"
                yield Finding(Kind.CHANGED, "pg_hba.conf", what)
            break


def _covers(rule: Rule, node: str) -> bool:
    if rule.address in ("all", "samenet", "samehost"):
        return True
    address, mask = plain.address(node), rule.mask
    try:
        return address in ipaddress.ip_network(f"{rule.address}/{_prefix(mask)}" if mask else rule.address, False)
    except ValueError:
        return False


def _prefix(mask: str) -> str:
    """Return a mask in the format of ip_network, which accepts an IPv6 mask only as a number of bits."""
    return str(int(ipaddress.ip_address(mask)).bit_count()) if ":" in mask else mask
