"""The pause of a cluster, during which decisions stand still, or its end, as nodes record it.

A majority of the nodes records a pause or its end, with a serial. So a node that returns with a majority in sight also
sees a node with the latest record. Between two records, the later serial counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ground import plain
from . import terms

LONGEST_REASON = 200
"""Limit in characters of the reason, and of the name of the administrator with the node."""
_LAST_SECOND = 32_503_680_000.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause, or its end if `paused` is False.

    `since`: when an administrator began or ended it, in seconds since 1970. `by`: that user, as `root@pg1`.
    """

    serial: int
    paused: bool
    since: float
    by: str
    reason: str

    @property
    def place(self) -> tuple[int, bool, float, str, str]:
        """Sort key; the greatest one counts. If two administrators use the same serial at once, the pause counts."""
        return self.serial, self.paused, self.since, self.by, self.reason

    @property
    def plausible(self) -> bool:
        """Whether an agent can have recorded it."""
        texts = all(len(text) <= LONGEST_REASON and plain.is_one_line(text) for text in (self.by, self.reason))
        return terms.plausible(self.serial) and 0 <= self.since < _LAST_SECOND and texts


NO_PAUSE = Pause(0, False, 0.0, "", "")
"""The value on a node that has never recorded one."""
