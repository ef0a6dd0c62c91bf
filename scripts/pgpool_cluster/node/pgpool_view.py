"""Query this node's pgpool-II in the background, and use its last answer while it gives none, as in a failover."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..decision.facts import PgpoolFacts

_KEPT_SECONDS = 1.0
_WAIT_SECONDS = 0.5
"""Seconds, from the beginning of a query, for which callers wait for its answer."""


class PgpoolView:
    """The last answer of pgpool-II to `ask`, queried again once it is 1 s old. Several threads use it."""

    def __init__(self, ask: Callable[[], PgpoolFacts | None]) -> None:
        self._ask = ask
        self._lock = threading.RLock()
        self._answer: PgpoolFacts | None = None
        self._fresh_until = 0.0
        self._forgotten = 0
        """The number of calls of `forget`."""
        self._query: threading.Thread | None = None
        self._waits_until = 0.0

    def forget(self) -> None:
        """Let the next call of `get` begin a new query."""
        with self._lock:
            self._forgotten += 1
            self._fresh_until = 0.0

    def get(self, *, wait: bool) -> PgpoolFacts | None:
        """Return the last answer; None if pgpool-II has not answered.

        With `wait`, wait for a running query, until 0.5 s after it began.
        """
        with self._lock:
            if self._query is None and self._fresh_until < time.monotonic():
                self._begin()
            query, until = self._query, self._waits_until
        if query is not None and wait:
            query.join(max(0.0, until - time.monotonic()))
        with self._lock:
            return self._answer

    def _begin(self) -> None:
        query = threading.Thread(target=self._run, args=(self._forgotten,), daemon=True)
        query.start()
        self._query, self._waits_until = query, time.monotonic() + _WAIT_SECONDS

    def _run(self, forgotten: int) -> None:
        try:
            answer = self._ask()
        except BaseException:
            self._end()
            raise
        with self._lock:
            kept = _KEPT_SECONDS if self._forgotten == forgotten else 0.0
            self._answer, self._fresh_until = answer, time.monotonic() + kept
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._query = None
