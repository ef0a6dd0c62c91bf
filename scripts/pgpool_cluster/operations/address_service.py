"""Have root put the virtual address up on this node, or remove it."""

from __future__ import annotations

from ..decision.actions import DropAddress, TakeAddress
from ..machine import units
from ..node.node import Here

_TAKE_SECONDS = 3.0
_DROP_SECONDS = 1.0
"""Time limit for root's answer. Root goes on after that, and the agent can fence the node in time."""


def take(_: Here, __: TakeAddress) -> None:
    """Put the virtual address up, and announce it. Raises ClusterError if another host answers for it."""
    units.control("address", "take", seconds=_TAKE_SECONDS)


def drop(_: Here, __: DropAddress) -> None:
    """Remove the virtual address, and end the connections to it. Raises ClusterError, also if that takes too long."""
    units.control("address", "drop", seconds=_DROP_SECONDS)
