"""Run `apply` in a background thread when the agent has learned something new; one `apply` at a time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from ..ground import log
from ..ground.errors import ClusterError
from ..machine import units

_RETRY_PAUSE_SECONDS = 10.0
"""Pause between two tries for the same reason."""
_GATHER_SECONDS = 1.0
"""Wait for further reasons before the first `apply`: a new cluster's node learns several things at nearly once."""


@dataclass(slots=True)
class Applying:
    """Asks root to run `apply` on behalf of several chores; requests made at the same time share one `apply`."""

    _next_try: dict[str, float] = field(default_factory=dict)
    """Earliest time of the next `apply` for each reason, by the monotonic clock."""
    _pending: list[str] = field(default_factory=list)
    _running: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ask(self, what: str) -> None:
        """Request an `apply` and return at once; a second request for `what` within ten seconds is ignored.

        `what` names the outdated part of the configuration in the journal if `apply` fails.
        """
        with self._lock:
            if time.monotonic() < self._next_try.get(what, float("-inf")):
                return
            self._next_try[what] = time.monotonic() + _RETRY_PAUSE_SECONDS
            self._pending.append(what)
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._work, daemon=True).start()

    def done(self, what: str) -> None:
        """Note that `what` is up to date, so that the next request for it takes effect at once."""
        with self._lock:
            self._next_try.pop(what, None)

    def _work(self) -> None:
        time.sleep(_GATHER_SECONDS)
        while reasons := self._taken():
            try:
                units.control("apply")
            except ClusterError as error:
                log.warning(f"cannot apply {' and '.join(reasons)}: {error.message}")

    def _taken(self) -> list[str]:
        """Take all pending reasons; an empty list marks the worker thread as finished."""
        with self._lock:
            reasons, self._pending = self._pending, []
            self._running = bool(reasons)
            return reasons
