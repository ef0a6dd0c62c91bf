"""The excuse that a primary sends to all nodes about its standbys (synchrony.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Excuse:
    """A primary's statement that a failover does not need the standbys `names`.

    Every acknowledged commit is on enough other nodes. Between two excuses, the later term counts, and within a term
    the later serial. A primary starts each term with serial 0.
    """

    term: int
    serial: int
    names: tuple[str, ...]

    @property
    def place(self) -> tuple[int, int]:
        """Sort key among all excuses; the greatest one counts."""
        return self.term, self.serial


NO_EXCUSE = Excuse(0, 0, ())
"""The value on a node that has never received an excuse."""
