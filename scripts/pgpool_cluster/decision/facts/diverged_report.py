"""Describe a record of WAL that only one node had, which a return or a recovery has kept (diverged.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DivergedReport:
    """A record of WAL that only one node had, in a folder called `name` on that node (diverged.py).

    `timeline`: the last one of the record. `begins` and `ends`: WAL positions. `bytes`: its size on the disk.
    `committed` and `other`: the number of transactions that have committed, and of those that have not.
    """

    name: str
    timeline: int
    begins: str
    ends: str
    committed: int
    other: int
    bytes: int
