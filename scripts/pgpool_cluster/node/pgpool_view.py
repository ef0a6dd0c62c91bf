"""Query this node's pgpool-II in the background, and use its last answer while it gives none, as in a failover."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..decision.facts.facts import PgpoolFacts

_KEPT_SECONDS = 1.0
_WAIT_SECONDS = 0.5
"""Seconds, from the beginning of a query, for which callers wait for its answer."""
_MOST_QUERIES = 2


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
        """The latest query, while it runs."""
        self._knows = 0
        """The value of `_forgotten` when that query began."""
        self._waits_until = 0.0
        self._running = 0

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
            if self._due(time.monotonic()):
                self._begin()
            query, until = self._query, self._waits_until
        if query is not None and wait:
            query.join(max(0.0, until - time.monotonic()))
        with self._lock:
            return self._answer

    def _due(self, now: float) -> bool:
        """Return whether a query must begin. One that hangs does not delay the next one after a call of `forget`.

        For example, it waits for a host that has just been lost, and the next one does not ask about that host.
        """
        if self._query is None:
            return self._fresh_until < now
        return self._running < _MOST_QUERIES and self._knows < self._forgotten and self._waits_until < now

    def _begin(self) -> None:
        query = threading.Thread(target=self._run, args=(self._forgotten,), daemon=True)
        self._query, self._knows, self._waits_until = query, self._forgotten, time.monotonic() + _WAIT_SECONDS
        try:
            query.start()
        except RuntimeError:
            self._query = None
            raise
        self._running += 1

    def _run(self, forgotten: int) -> None:
        try:
            answer = self._ask()
        except BaseException:
            self._end()
            raise
        with self._lock:
            if self._query is threading.current_thread():
                kept = _KEPT_SECONDS if self._forgotten == forgotten else 0.0
                self._answer, self._fresh_until = answer, time.monotonic() + kept
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
            if self._query is threading.current_thread():
                self._query = None
