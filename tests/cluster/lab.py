"""The room where hosts stand: one network of their own, which reaches nothing else."""

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

from pgpool_deb.errors import MachineError

TRIES = 10


@dataclass(slots=True)
class Lab:
    """The hosts that stand here; addresses are never given out twice, except after 240 hosts."""

    engine: docker.DockerClient
    network: Network
    subnet: str
    hosts: list[Host] = field(default_factory=list)
    _given: int = 9

    def boot(self, image: str, *names: str) -> tuple[Host, ...]:
        """Switch new hosts on, all at once, and wait until they have come up."""
        new = [self._place(image, name) for name in names]
        together(Host.booted, new)
        return tuple(new)

    def remove(self, hosts: tuple[Host, ...]) -> None:
        """Throw hosts away with their disks."""
        together(lambda host: host.container.remove(force=True, v=True), hosts)
        self.hosts = [host for host in self.hosts if host not in hosts]

    def journals(self) -> str:
        """Return what the cluster's services said last, on every host."""
        return "\n".join(f"--- {host} {host.address}\n{host.journal()}" for host in self.hosts)

    def _place(self, image: str, name: str) -> Host:
        self._given = self._given % 249 + 1
        address = f"{self.subnet}.{self._given}"
        host = boot(self.engine, image, name, network=str(self.network.name), address=address)
        self.hosts.append(host)
        return host


@contextmanager
def lab(engine: docker.DockerClient) -> Iterator[Lab]:
    """Open a lab; its hosts and its network go in the end."""
    network, subnet = _network(engine)
    room = Lab(engine, network, subnet)
    try:
        yield room
    finally:
        room.remove(tuple(room.hosts))
        network.remove()


def _network(engine: docker.DockerClient) -> tuple[Network, str]:
    """Make a network that nobody else has; addresses are of the range for benchmarks (RFC 2544)."""
    error: DockerException | None = None
    for _ in range(TRIES):
        subnet = f"198.18.{random.randrange(256)}"
        pools = [IPAMPool(subnet=f"{subnet}.0/24", gateway=f"{subnet}.254")]
        name = f"{LABEL}-{subnet}"
        try:
            made = engine.networks.create(name, internal=True, ipam=IPAMConfig(pool_configs=pools), labels={LABEL: ""})
        except APIError as refused:
            error = refused
        else:
            return made, subnet
    raise MachineError(f"docker makes no network: {error}", hint="docker network prune") from error
