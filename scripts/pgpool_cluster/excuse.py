"""What a primary tells all nodes of its standbys (synchrony.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Excuse:
    """A primary's word on standbys: what it acknowledged is on enough others, so a failover may do without `names`.

    Of two, the one of the later term counts, in one term the one with the later serial: a primary that comes into
    `term` begins with serial 0.
    """

    term: int
    serial: int
    names: tuple[str, ...]

    @property
    def place(self) -> tuple[int, int]:
        """Its place among all, the latest being the one that counts."""
        return self.term, self.serial


NO_EXCUSE = Excuse(0, 0, ())
"""What a node knows that no primary has told anything."""
