"""Watch PostgreSQL and pgpool-II of this node, so that the death of either is known at once.

The watch has a thread of its own. It wakes the agent's loop, and a heartbeat is sent at once. It also does the work
that could block the thread of the heartbeats: it reads their keys, writes their lines to the journal, and keeps the
names of the nodes that send heartbeats for the next agent.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..decision.liveness.heartbeat import ProcessState
from ..definition.cluster import Service
from ..definition.key import heartbeat_keys
from ..ground import files, log, paths
from ..ground.errors import ServerError
from ..machine import process_watch, units
from ..machine.process_watch import HeldProcess
from ..machine.server import Instance
from ..node.node import Here

_PAUSE_SECONDS = 0.5
"""Pause between two searches for a main process that is not held, and between two checks of the key file."""
FROZEN_SECONDS = 3.0
"""Time after which a PostgreSQL that a signal has stopped is reported as hanging."""
_END_SECONDS = 2.0


def _not_reported(_: ProcessState) -> None:
    pass


@dataclass(slots=True)
class _Watched:
    """A main process. `report` publishes its state, if heartbeats carry it."""

    name: str
    report: Callable[[ProcessState], None] = _not_reported
    held: HeldProcess | None = None
    frozen_since: float = 0.0
    """Since when it has been stopped by a signal, by the monotonic clock; 0 if it is not."""
    hangs: bool = False


@dataclass(slots=True)
class LocalWatch:
    """The local watch of one agent. `wake` ends the pause of the agent's loop."""

    here: Here
    wake: Callable[[], None]
    _server: _Watched = field(init=False)
    _pool: _Watched = field(init=False)
    _bell: int = field(init=False)
    """An eventfd that wakes the thread."""
    _over: threading.Event = field(default_factory=threading.Event)
    _instance: Instance | None = None
    """The server that is watched."""
    _failed: str = ""
    """The last fault of a step, which is logged once."""
    _partners: frozenset[str] = frozenset()
    """The names in paths.PARTNERS."""
    _key_of: tuple[int, int] | None = None
    """Inode and time of change of the key file that was read last."""

    def __post_init__(self) -> None:
        self._server = _Watched("PostgreSQL", self.here.beats.note_server)
        self._pool = _Watched("pgpool-II")
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._bell)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Exchange heartbeats and watch in a thread while the block runs."""
        self.here.beats.on_news = self._on_news
        self._recall_partners()
        thread = threading.Thread(target=self._run, name="local watch", daemon=True)
        with self.here.beats.running():
            thread.start()
            try:
                yield
            finally:
                self._over.set()
                self._ring()
                thread.join(_END_SECONDS)

    def _on_news(self) -> None:
        self.wake()
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        while not self._over.is_set():
            why = ""
            try:
                self.step()
            except Exception as error:  # the watch outlives any fault of a step
                why = f"the local watch failed: {type(error).__name__}: {error}"
            if why and why != self._failed:
                log.error(why)
            self._failed = why
            self._wait()
        for one in (self._server, self._pool):
            self._release(one)

    def step(self) -> None:
        """Report processes that have appeared, ended or been stopped, and do the slow work of the heartbeats."""
        for news in self.here.beats.news():
            (log.warning if news.bad else log.info)(news.text)
        self._read_keys()
        database = self.here.database
        instance = database.instance if database is not None else None
        if instance != self._instance:
            self._release(self._server)
        self._instance = instance
        self._look_after(self._server, lambda: process_watch.postmaster(instance.data) if instance else None)
        pools = Service.PGPOOL in self.here.me.runs
        self._look_after(self._pool, lambda: process_watch.pool() if pools else None)
        self._freeze(self._server)
        self._keep_partners()

    def _wait(self) -> None:
        """Pause until a process ends, a heartbeat has news, or the next search is due."""
        poll = select.poll()
        for handle in (self._bell, *(one.held.handle for one in (self._server, self._pool) if one.held is not None)):
            poll.register(handle, select.POLLIN)
        poll.poll(_PAUSE_SECONDS * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def _look_after(self, one: _Watched, find: Callable[[], HeldProcess | None]) -> None:
        if one.held is not None and one.held.ended:
            held = one.held
            state = ProcessState.ENDED if self._is_planned(one, held) else ProcessState.DIED
            self._release(one)
            self.here.forget_looks()
            one.report(state)
            self.wake()
            if state is ProcessState.DIED:
                log.warning(f"{one.name} has died (process {held.pid})")
        if one.held is None:
            one.held = find()
            if one.held is not None:
                one.report(ProcessState.RUNS)
                self.wake()

    def _is_planned(self, one: _Watched, held: HeldProcess) -> bool:
        """Return whether an ended process was stopped or restarted on request.

        systemd is busy with the unit then, without having seen a failure. If systemd does not answer, the end counts as
        planned, and the next facts show the truth.
        """
        instance = self._instance
        server = instance is not None and one is self._server
        if server and instance is not None and process_watch.left_its_file(held, instance.data):
            return False
        if server and paths.STOPPED.exists():
            return True
        try:
            state = units.state(instance.unit if server and instance is not None else paths.PGPOOL_UNIT)
            upgraded = server and instance is not None and state.restarts_with(instance.package)
        except ServerError:
            return True
        return state.queued or upgraded or (state.moving and state.result == "success")

    def _release(self, one: _Watched) -> None:
        if one.held is not None:
            one.held.close()
        one.held, one.frozen_since, one.hangs = None, 0.0, False

    def _freeze(self, one: _Watched) -> None:
        """Report a process that a signal has stopped for FROZEN_SECONDS, and its continuation."""
        now = time.monotonic()
        frozen = one.held is not None and one.held.frozen
        one.frozen_since = (one.frozen_since or now) if frozen else 0.0
        hangs = frozen and now - one.frozen_since >= FROZEN_SECONDS
        if hangs != one.hangs:
            one.hangs = hangs
            if one.held is not None:
                one.report(ProcessState.FROZEN if hangs else ProcessState.RUNS)
            self.wake()
            if hangs:
                log.warning(f"{one.name} hangs: a signal has stopped it for {FROZEN_SECONDS:g} s")

    def _recall_partners(self) -> None:
        """Expect heartbeats of the nodes that sent some to the last agent since the boot.

        Otherwise, an agent that is restarted while its node is cut off could not distinguish them from nodes with an
        older package, and would fence nothing.
        """
        with contextlib.suppress(ServerError, ValueError):  # then their facts must show it
            found = files.read(paths.PARTNERS)
            self._partners = frozenset(found.text.split()) if found is not None else frozenset()
            self.here.beats.note_support(dict.fromkeys(self._partners, True))

    def _keep_partners(self) -> None:
        partners = self.here.beats.partners
        if partners != self._partners:
            files.write(paths.PARTNERS, "".join(f"{name}\n" for name in sorted(partners)).encode())
            self._partners = partners

    def _read_keys(self) -> None:
        """Read the keys of the heartbeats again if `apply` has written them."""
        try:
            found = paths.HEARTBEAT_KEY.stat()
            state = (found.st_ino, found.st_mtime_ns)
            if state == self._key_of:
                return
            keys = heartbeat_keys(paths.HEARTBEAT_KEY.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return
        self._key_of = state
        self.here.beats.use_keys(keys)
