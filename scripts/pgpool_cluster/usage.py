"""How full a WAL archive is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """How full an archive is: `bytes` on the disk, `used` the share of that disk that is taken, by whatever.

    `oldest` and `newest`: the first and the last WAL file by position, "" if there is none.
    """

    files: int
    bytes: int
    used: float
    oldest: str = ""
    newest: str = ""
