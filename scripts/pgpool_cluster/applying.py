"""Laying down what a node has come to know: one `apply` after the other, beside everything else."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from . import log, units
from .errors import ClusterError

_BETWEEN = 10.0
"""Seconds between two tries for the same reason."""
_GATHER = 1.0
"""Seconds in which further reasons join: at a founding a node learns several things at nearly the same time."""


@dataclass(slots=True)
class Applying:
    """Has root lay down what lags behind, for several chores: what they ask for at the same time is one `apply`."""

    _from: dict[str, float] = field(default_factory=dict)
    """When, by the monotonic clock, an `apply` may be asked for again, by what it is for."""
    _wanted: list[str] = field(default_factory=list)
    _goes_on: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ask(self, what: str) -> None:
        """Have configuration applied, unless that was asked for within the last ten seconds; returns at once.

        `what`: what lags behind, for the journal where it fails.
        """
        with self._lock:
            if time.monotonic() < self._from.get(what, float("-inf")):
                return
            self._from[what] = time.monotonic() + _BETWEEN
            self._wanted.append(what)
            if self._goes_on:
                return
            self._goes_on = True
        threading.Thread(target=self._work, daemon=True).start()

    def done(self, what: str) -> None:
        """Note that it does not lag behind: the next time is asked for at once."""
        with self._lock:
            self._from.pop(what, None)

    def _work(self) -> None:
        time.sleep(_GATHER)
        while reasons := self._taken():
            try:
                units.control("apply")
            except ClusterError as error:
                log.warning(f"cannot lay down {' and '.join(reasons)}: {error.message}")

    def _taken(self) -> list[str]:
        """Return what is wanted and take it off; where that is nothing, the work has ended."""
        with self._lock:
            reasons, self._wanted = self._wanted, []
            self._goes_on = bool(reasons)
            return reasons
