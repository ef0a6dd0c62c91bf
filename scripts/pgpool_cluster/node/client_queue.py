"""Let the clients of this node's pgpool-II wait while the primary changes, instead of refusing them.

A thread stops the processes of pgpool-II that wait for a client, and those whose client is idle, so that new
connections and new statements wait. Transactions and statements that have begun go on. After the change, pgpool-II
replaces all these processes, and the new ones serve the clients that wait. Every queue has a deadline of this node's
own, so clients wait no longer if the node that requested the queue is lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..ground import log
from ..ground.errors import OperationError
from ..ground.waiting import poll
from ..machine import pool_children
from ..machine.pool_children import Doing

LONGEST_SECONDS = 75.0
"""Limit of every queue's time, whatever is requested."""
_PAUSE_SECONDS = 0.005
IDLE_SECONDS = 0.2
"""Time after which an idle client counts as one that sends nothing soon."""
_GENTLE_SECONDS = 0.5
"""Time after which idle clients are stopped at once, since one that sends its statements in a row would never be."""
_OBSERVE_PAUSE_SECONDS = 0.02
_FIRST_SECONDS = 1.0
"""Time within which the first round has been made."""
_END_SECONDS = 2.0
_REPLACED_SECONDS = 1.0
"""Time within which pgpool-II has told its processes to end, once it knows the new primary."""
_REPLACED_PAUSE_SECONDS = 0.005
_OTHER_SECONDS = 5.0
"""Time limit for a redirection that another thread has begun."""
_UNSEEN_ROUNDS = 2
"""Rounds in a row after which a client without a title of its own counts as one that a stopped process has accepted."""
_MOST_REPEATS = 20


@dataclass(slots=True)
class _Run:
    """One queue, and the thread that keeps it."""

    main: int
    port: int
    deadline: float
    over: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    """The first round has been made."""
    only: frozenset[int] | None = None
    """The processes that may be stopped, once pgpool-II begins to replace them; None for all."""
    stopped: dict[int, str] = field(default_factory=dict)
    """The processes that this queue has stopped, with their titles."""
    busy: int = 1
    """The number of clients that do not wait; at least one until the first round has been made."""
    thread: threading.Thread = field(init=False)
    opens: float = field(init=False)
    """When the first process is stopped; until then, the thread only observes which clients are idle."""
    _idle: dict[int, tuple[str, float]] = field(default_factory=dict)
    _unseen: int = 0
    _repeats: int = 0

    def __post_init__(self) -> None:
        self.opens = time.monotonic() + IDLE_SECONDS
        self.thread = threading.Thread(target=self._keep, name="client queue", daemon=True)

    def _keep(self) -> None:
        try:
            while not self.over.is_set() and time.monotonic() < self.deadline:
                began = time.monotonic()
                if began < self.opens:
                    self._observe(self._titles())
                    self.over.wait(_OBSERVE_PAUSE_SECONDS)
                    continue
                self._round()
                if not self.begun.is_set():
                    spent = (time.monotonic() - began) * 1000
                    log.info(f"new clients wait: {len(self.stopped)} processes of pgpool-II stopped in {spent:.0f} ms")
                self.begun.set()
                self.over.wait(max(_PAUSE_SECONDS, time.monotonic() - began))
        except Exception:
            log.error(f"the queue of clients ends: {traceback.format_exc()}")
        finally:
            self.over.set()
            left = pool_children.release()
            log.info(f"clients go on: {len(left)} processes of pgpool-II were still stopped")
            self.busy = 0
            self.begun.set()

    def _round(self) -> None:
        """Stop the processes that are free, continue those that pgpool-II ends, and count the others."""
        for pid in [one for one in self.stopped if pool_children.ends(one)]:
            pool_children.go_on(pid)
            del self.stopped[pid]
        titles = self._titles()
        self._observe(titles)
        serving = {pid: title for pid, title in titles.items() if pool_children.doing(title) is not Doing.OTHER}
        free = {pid: title for pid, title in serving.items() if self._is_free(pid, title)}
        stopped = pool_children.stop(
            {pid: title for pid, title in free.items() if not pool_children.ends(pid)}, self.main
        )
        self.stopped |= {pid: titles[pid] for pid in stopped}
        self.busy = len(serving) - len(stopped)
        if not self.busy and self.only is None and self._has_unseen_client():
            self.busy = self._repeat()

    def _titles(self) -> dict[int, str]:
        """Return the titles of the processes that may be stopped and are not."""
        only = self.only
        found = [pid for pid in pool_children.children(self.main) if only is None or pid in only]
        return {pid: pool_children.title(pid) for pid in found if pid not in self.stopped}

    def _observe(self, titles: Mapping[int, str]) -> None:
        """Record since when each client has been idle. A title names its client."""
        now, before = time.monotonic(), self._idle
        idle = {pid: title for pid, title in titles.items() if pool_children.doing(title) is Doing.IDLE}
        self._idle = {
            pid: before[pid] if pid in before and before[pid][0] == title else (title, now)
            for pid, title in idle.items()
        }

    def _is_free(self, pid: int, title: str) -> bool:
        """Return whether a process may be stopped: it waits for a client, or its client has been idle for a while.

        A client that has just logged in is about to send a statement, and would lose its connection.
        """
        if pool_children.doing(title) is Doing.WAITING:
            return True
        now = time.monotonic()
        _, since = self._idle.get(pid, (title, now))
        return pool_children.doing(title) is Doing.IDLE and (
            now - since >= IDLE_SECONDS or now - self.opens >= _GENTLE_SECONDS
        )

    def _has_unseen_client(self) -> bool:
        """Return whether a process has accepted a client that no title shows, for more than a moment."""
        unseen = pool_children.accepted(self.port) > sum(map(pool_children.by_tcp, self.stopped.values()))
        self._unseen = self._unseen + 1 if unseen else 0
        return self._unseen >= _UNSEEN_ROUNDS and self._repeats < _MOST_REPEATS

    def _repeat(self) -> int:
        """Continue the processes that seem to wait for a client, because one of them has just accepted one."""
        self._repeats += 1
        waiting = [pid for pid, title in self.stopped.items() if pool_children.doing(title) is Doing.WAITING]
        for pid in waiting:
            pool_children.go_on(pid)
            del self.stopped[pid]
        return len(waiting)


class ClientQueue:
    """The queue of this node, if there is one now."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._one_redirection = threading.Lock()
        self._run: _Run | None = None

    def begin(self, seconds: float, port: int) -> int:
        """Let clients of pgpool-II, which serves them on `port`, wait for at most `seconds` from now.

        Returns the number of clients that still have a transaction or a statement. A queue that exists keeps its
        deadline. Without pgpool-II there is nothing to do, and the number is 0.
        """
        with self._lock:
            run = self._current()
            if run is None:
                main = pool_children.main()
                if not main:
                    return 0
                run = self._run = _Run(main, port, time.monotonic() + min(max(seconds, 0.0), LONGEST_SECONDS))
                run.thread.start()
        run.begun.wait(_FIRST_SECONDS)
        return run.busy

    def end(self) -> None:
        """Let the clients go on, and return when no process of pgpool-II is stopped."""
        with self._lock:
            run, self._run = self._run, None
        if run is not None:
            run.over.set()
            run.thread.join(_END_SECONDS)

    def abandon(self) -> None:
        """Have the queue end soon; safe in a handler of a signal."""
        run = self._run
        if run is not None:
            run.over.set()

    @contextlib.contextmanager
    def redirecting(self) -> Iterator[None]:
        """Have pgpool-II replace its processes in the block. The new ones serve, and the queue ends afterwards.

        One thread at a time is in the block: a second replacement would end the sessions of the clients that waited.
        An old process continues only after pgpool-II has told it to end; otherwise, it would accept a client and send
        it to the former primary. If the block fails, the queue goes on. Raises OperationError if the thread that is in
        the block takes more than 5 s.
        """
        free = self._one_redirection
        if not poll(lambda: free.acquire(blocking=False), seconds=_OTHER_SECONDS, pause=_REPLACED_PAUSE_SECONDS):
            raise OperationError(
                "pgpool-II is still learning of another change of the primary", hint="pgpoolctl status"
            )
        try:
            run = self._current()
            if run is None:
                yield
                return
            with self._replacing(run):
                yield
            self.end()
        finally:
            free.release()

    @contextlib.contextmanager
    def _replacing(self, run: _Run) -> Iterator[None]:
        run.only = frozenset(pool_children.children(run.main))
        try:
            yield
        except BaseException:
            run.only = None
            raise
        if not poll(lambda: not run.stopped, seconds=_REPLACED_SECONDS, pause=_REPLACED_PAUSE_SECONDS):
            log.warning("pgpool-II has not replaced all of its processes after the change of the primary")

    def _current(self) -> _Run | None:
        run = self._run
        return run if run is not None and not run.over.is_set() else None
