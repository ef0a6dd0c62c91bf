"""Laying down what a node has come to know: one `apply` after the other, beside everything else."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from . import units
from .errors import ClusterError
from .node import log

_BETWEEN = 10.0
"""Seconds between two tries."""


@dataclass(slots=True)
class Applying:
    """Has root lay down what lags behind. `what`: what that is, for the journal where it fails."""

    what: str
    _from: float = float("-inf")

    def ask(self) -> None:
        """Have configuration applied, unless that was asked for within the last ten seconds; returns at once."""
        if time.monotonic() >= self._from:
            self._from = time.monotonic() + _BETWEEN
            threading.Thread(target=self._apply, daemon=True).start()

    def done(self) -> None:
        """Note that nothing lags behind: the next time is asked for at once."""
        self._from = float("-inf")

    def _apply(self) -> None:
        try:
            units.control("apply")
        except ClusterError as error:
            log(f"cannot lay down {self.what}: {error.message}")
