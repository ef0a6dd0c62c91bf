"""The state of a recovery in two stages on the node that is rebuilt, and on the main node that it is copied from.

A stage is a request of pgpool-II's recovery functions, so each runs in its own thread. pgpool-II decides when the next
one begins, or whether it does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..ground.errors import ClusterError
from ..transport.peers import Progress

HINT = "see journalctl -u pgpool2-cluster; run the same command to start again"
PATIENCE_SECONDS = 1.0
"""Seconds without progress of the replay, after which the target reads the source's archive instead of its stream."""
STALL_SECONDS = 4.0
"""Seconds without progress, or without a message, after which a recovery is aborted, because clients are waiting."""


class Rebuilding:
    """A recovery of this node, from the request to pgpool-II until pgpool-II has attached the node."""

    def __init__(self) -> None:
        self._requested = threading.Lock()
        self._lock = threading.RLock()
        self._report: Progress | None = None
        self._under_way = False
        self._failure = ""
        self._deadline = 0.0
        """When pgpool-II must have begun the next stage, by the monotonic clock; 0 while a stage is running."""

    @contextmanager
    def request(self) -> Iterator[bool]:
        """Hold the only request for a recovery of this node; yields False if another thread holds it."""
        mine = self._requested.acquire(blocking=False)
        try:
            yield mine
        finally:
            if mine:
                with self._lock:
                    self._report = None
                self._requested.release()

    @property
    def requested(self) -> bool:
        """Whether a thread has requested a recovery and waits for its end."""
        return self._requested.locked()

    def await_other(self, seconds: float) -> bool:
        """Wait for the end of another thread's request, for at most `seconds`; return whether it has ended."""
        if self._requested.acquire(timeout=seconds):
            self._requested.release()
            return True
        return False

    def begin(self, report: Progress) -> None:
        """Report the stages to the requester from now on, and forget the failure of an earlier recovery."""
        with self._lock:
            self._report, self._failure = report, ""

    def report(self, text: str) -> None:
        """Report progress to the requester, if there is one."""
        with self._lock:
            report = self._report
        if report is not None:
            report(text)

    @contextmanager
    def stage(self, seconds: float) -> Iterator[None]:
        """Run a stage: the recovery is under way, without a deadline. Its error ends the recovery.

        Afterwards, pgpool-II has `seconds` to begin the next stage.
        """
        with self._lock:
            self._under_way, self._deadline = True, 0.0
        try:
            yield
        except ClusterError as error:
            self.fail(error.message)
            raise
        with self._lock:
            self._deadline = time.monotonic() + seconds

    @property
    def under_way(self) -> bool:
        """Whether a stage has begun, and pgpool-II has neither attached the node nor failed since."""
        with self._lock:
            return self._under_way

    @property
    def overdue(self) -> bool:
        """Whether pgpool-II has not begun the next stage in time."""
        with self._lock:
            return self._under_way and 0 < self._deadline < time.monotonic()

    @property
    def failure(self) -> str:
        """Why the last recovery failed; "" if it did not."""
        with self._lock:
            return self._failure

    def fail(self, why: str) -> None:
        """End the recovery with a reason."""
        with self._lock:
            self._under_way, self._failure = False, why

    def refused(self, why: str, *, aborted: bool) -> str:
        """Note that pgpool-II reports a failure, and return its reason, which is a stage's own if there is one.

        `aborted`: pgpool-II does not continue with the recovery.
        """
        with self._lock:
            self._under_way = self._under_way and not aborted
            self._failure = self._failure or why
            return self._failure

    def end(self) -> None:
        """Note that the node is in service."""
        with self._lock:
            self._under_way = False


class Drain:
    """A recovery that copies this node, the main node: the WAL that it needs, and the sessions that it waits for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._archive_from = ""
        self._began = 0.0
        self._primary = ""

    @property
    def archive_from(self) -> str:
        """The first WAL file that the recovery needs from this node's archive; "" if no recovery is running."""
        with self._lock:
            return self._archive_from

    @contextmanager
    def copying(self, first: str) -> Iterator[None]:
        """Run the first stage, and keep the archive from this WAL file until the second has ended, or an error."""
        with self._lock:
            self._archive_from = first
        try:
            yield
        except ClusterError:
            self._release()
            raise

    def begin(self) -> float:
        """Note that the second stage waits for the end of sessions; return its number for `goes_on` and `give_up`."""
        with self._lock:
            self._primary, self._began = "", time.monotonic()
            return self._began

    def goes_on(self, began: float) -> bool:
        """Return whether that second stage still waits for the end of sessions."""
        with self._lock:
            return self._began == began

    def give_up(self, began: float) -> None:
        """Release the archive if that second stage is still waiting."""
        with self._lock:
            if self._began == began:
                self._release()

    @contextmanager
    def finishing(self, name: str) -> Iterator[None]:
        """Run the second stage, in which node `name` becomes a primary. No sessions are left; release the archive."""
        with self._lock:
            self._began = 0.0
        try:
            yield
            with self._lock:
                self._primary = name
        finally:
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._archive_from = ""

    def take_primary(self, name: str) -> bool:
        """Return, once, whether the last second stage has made this node a primary."""
        with self._lock:
            found = self._primary == name
            if found:
                self._primary = ""
            return found
