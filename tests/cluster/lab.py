"""A lab for hosts: an isolated network of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import docker
from docker.errors import APIError, DockerException
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool
from tests.host import LABEL, Host, boot, together

from pgpool_deb.ground.errors import MachineError

TRIES = 10


@dataclass(slots=True)
class Lab:
    """The hosts of a lab; it reuses an address only after 240 hosts."""

    engine: docker.DockerClient
    network: Network
    subnet: str
    hosts: list[Host] = field(default_factory=list)
    _given: int = 9

    def boot(self, image: str, *names: str, domain: str = "") -> tuple[Host, ...]:
        """Boot new hosts in parallel, and wait until they are up.

        With a `domain`, every host resolves all names in it, but its own to 127.0.1.1, like after Debian's installer.
        """
        places = {name: self.address() for name in names}
        known = {f"{name}.{domain}": address for name, address in places.items() if domain}
        new = [
            self._place(image, name, address, known | ({f"{name}.{domain}": "127.0.1.1"} if domain else {}))
            for name, address in places.items()
        ]
        together(Host.booted, new)
        return tuple(new)

    def remove(self, hosts: tuple[Host, ...]) -> None:
        """Remove hosts with their disks."""
        together(lambda host: host.container.remove(force=True, v=True), hosts)
        self.hosts = [host for host in self.hosts if host not in hosts]

    def journals(self) -> str:
        """Return the last journal lines of the cluster's services on every host."""
        return "\n".join(f"--- {host} {host.address}\n{host.journal()}" for host in self.hosts)

    def address(self) -> str:
        """Return an unused address."""
        self._given = self._given % 249 + 1
        return f"{self.subnet}::{self._given:x}" if ":" in self.subnet else f"{self.subnet}.{self._given}"

    def _place(self, image: str, name: str, address: str, known: dict[str, str]) -> Host:
        host = boot(self.engine, image, name, network=str(self.network.name), address=address, knows=known)
        self.hosts.append(host)
        return host


@contextmanager
def lab(engine: docker.DockerClient, *, six: bool = False) -> Iterator[Lab]:
    """Open a lab, with `six` for IPv6 addresses only; its hosts and its network are removed at the end."""
    network, subnet = _network(engine, six=six)
    room = Lab(engine, network, subnet)
    try:
        yield room
    finally:
        room.remove(tuple(room.hosts))
        network.remove()


def _network(engine: docker.DockerClient, *, six: bool) -> tuple[Network, str]:
    """Create an unused network, from the range for benchmarks (RFC 2544) or of unique local addresses (RFC 4193)."""
    error: DockerException | None = None
    for _ in range(TRIES):
        number = random.randrange(256)
        subnet = f"fd00:18:{number:x}" if six else f"198.18.{number}"
        pools = [IPAMPool(subnet=f"{subnet}::/64", gateway=f"{subnet}::fe") if six else
                 IPAMPool(subnet=f"{subnet}.0/24", gateway=f"{subnet}.254")]  # fmt: skip
        name = f"{LABEL}-{subnet.replace(':', '-')}"
        try:
            made = engine.networks.create(
                name, internal=True, enable_ipv6=six, ipam=IPAMConfig(pool_configs=pools), labels={LABEL: ""}
            )
        except APIError as refused:
            error = refused
        else:
            return made, subnet
    raise MachineError(f"docker makes no network: {error}", hint="docker network prune") from error
