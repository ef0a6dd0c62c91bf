"""Have root put the virtual address up on this node, or remove it."""

from __future__ import annotations

from ..decision.actions import DropAddress, TakeAddress
from ..machine import units
from ..node.node import Here

_SECONDS = 3.0
"""Time limit for root's answer, so that a machine under load is still fenced in time."""


def take(_: Here, __: TakeAddress) -> None:
    """Put the virtual address up, and announce it. Raises ClusterError if another host answers for it."""
    units.control("address", "take", seconds=_SECONDS)


def drop(_: Here, __: DropAddress) -> None:
    """Remove the virtual address, and end the connections to it. Raises ClusterError."""
    units.control("address", "drop", seconds=_SECONDS)
