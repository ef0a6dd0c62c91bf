"""Define the use of a WAL archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of an archive. `bytes`: its size on the disk; `used`: the used fraction of that disk, by all files.

    `oldest` and `newest`: the first and the last WAL file by position, "" if there is none.
    """

    files: int
    bytes: int
    used: float
    oldest: str = ""
    newest: str = ""
