"""Remember as root which virtual address this machine has, and remove it.

Only what is necessary for that is imported, because a node that is cut off has to drop the address within a moment.
due_address.py puts the address up.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass

from ..ground import paths
from ..ground.errors import ServerError
from . import hands, roots_lock
from .network import carried_address
from .network.carried_address import Placement

_LOCK = paths.ROOTS_RUN / "virtual-address.lock"
_LOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """The address that root has put up, and the ports of the cluster's services."""

    placement: Placement
    ports: tuple[int, ...]

    @classmethod
    def load(cls) -> HeldAddress | None:
        """Read paths.HELD_ADDRESS; None if it is missing or damaged."""
        try:
            found = hands.read(paths.HELD_ADDRESS, 0)
            if found is None:
                return None
            values = json.loads(found.text)
            address = ipaddress.ip_interface(str(values["address"]))
            placement = Placement(address, str(values["interface"]), alone=values["alone"] is True)
            return cls(placement, tuple(map(int, values["ports"])))
        except (ServerError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self) -> None:
        """Write paths.HELD_ADDRESS; raises ServerError."""
        one = self.placement
        values = {"address": str(one.address), "interface": one.interface, "alone": one.alone, "ports": self.ports}
        hands.write(paths.HELD_ADDRESS, json.dumps(values).encode() + b"\n", 0o644)

    def remove(self) -> None:
        """End the connections to the address, remove it and forget it; raises ServerError."""
        address = self.placement.address.ip
        carried_address.end_connections(address, self.ports)
        carried_address.remove(address)
        hands.remove(paths.HELD_ADDRESS, 0)


def withdraw() -> bool:
    """Remove the address that root has put up, whatever cluster.yml says. Return whether there was one.

    Raises ServerError.
    """
    with changing():
        held = HeldAddress.load()
        if held is not None:
            held.remove()
    return held is not None


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Hold the lock for one change of the address at a time; raises ServerError."""
    with roots_lock.locked(_LOCK, f"the virtual address has been moving for {_LOCK_SECONDS:g} s", _LOCK_SECONDS):
        yield
