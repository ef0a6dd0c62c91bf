"""Fence this node in time, and feed systemd's watchdog, in a thread that nothing else delays.

The loop decides the same, but an action, a chore or a request can hold `acting` for minutes. This thread holds no lock
during a system call that can block, and writes neither to a disk nor to the journal. If it hangs all the same, systemd
restarts the agent.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from ..decision import fencing
from ..decision.actions import Fence, StopPgpool, said
from ..decision.liveness import links
from ..decision.reports.events import kind_of
from ..ground import log, paths
from ..ground.errors import ClusterError, OperationError
from ..machine.server import Instance
from ..node import recording
from ..node.node import Here
from ..operations import pgpool_service
from ..postgresql import data_directory, postmaster
from .contact import Alone

_PAUSE_SECONDS = 0.1
_END_SECONDS = 2.0
_AGAIN_SECONDS = 5.0
"""Least pause between two tries to stop pgpool-II, and between two reports of a server that does not end."""


@dataclass(slots=True)
class FenceWatch:
    """The fence of one node. `wake` ends the pause of the agent's loop, and `feed` feeds systemd's watchdog."""

    here: Here
    wake: Callable[[], None]
    feed: Callable[[], None]
    _alone: Alone = field(default_factory=Alone)
    _silent: dict[str, float] = field(default_factory=dict)
    """Since when, by the monotonic clock, each silent node has been silent."""
    _aftermath: threading.Thread | None = None
    """Stops pgpool-II and records the fence, either of which can block."""
    _next: float = float("-inf")
    """When the aftermath may run again, by the monotonic clock."""
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch in a thread while the block runs."""
        thread = threading.Thread(target=self._run, name="fence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(_PAUSE_SECONDS):
            self.feed()
            try:
                self.step()
            except Exception as error:  # the watch outlives any fault of a step
                self._after(partial(log.error, f"the fence failed: {type(error).__name__}: {error}"))

    def step(self) -> None:
        """Kill PostgreSQL if this node must not accept writes any more, and have pgpool-II stopped."""
        here, now = self.here, time.monotonic()
        cluster, me = here.cluster, here.me.name
        self._silent = {name: self._silent.get(name, now) for name in here.silent.value}
        facts = fencing.at_present(here.seen.value, me, self._silent, here.asked.value, now)
        unheard = links.unheard(here.beats.links())
        self._alone.note(cluster, facts, me, now, unheard)
        if here.record.pause.paused or not fencing.is_due(cluster, self._alone.seconds(now)):
            return
        missing = ", ".join(fencing.missing(cluster, facts, me, unheard))
        why = f"it has had no contact to {missing} for {self._alone.seconds(now):.1f} s"
        instance = here.database.instance if here.database is not None else None
        if instance is not None and self._accepts_writes(instance):
            ended = postmaster.kill(instance)
            self._after(partial(self._finish, why, Fence(me, fencing.REASON), ended=ended))
        elif paths.SERVE.exists():
            self._after(partial(self._finish, why))

    def _accepts_writes(self, instance: Instance) -> bool:
        """Return whether a member of the cluster runs here and is no standby, without facts, which may be too old."""
        record, mine = self.here.record, self.here.seen.value.of(self.here.me.name)
        member = record.system is not None and not record.copying and (mine.member or not mine.reachable)
        try:
            return member and postmaster.runs(instance) and not data_directory.is_standby(instance.data)
        except OSError:  # a disk that fails must not keep a primary
            return member

    def _after(self, work: Callable[[], object]) -> None:
        """Run work that can block in another thread, unless the last one has not ended or has just begun."""
        now = time.monotonic()
        if now < self._next or (self._aftermath is not None and self._aftermath.is_alive()):
            return
        self._next = now + _AGAIN_SECONDS
        self._aftermath = threading.Thread(target=work, name="aftermath of a fence", daemon=True)
        self._aftermath.start()

    def _finish(self, why: str, fence: Fence | None = None, *, ended: bool = True) -> None:
        """Stop pgpool-II, and record both actions. `why`: which nodes were missing, and for how long."""
        here = self.here
        here.forget_looks()
        self.wake()
        if paths.SERVE.exists():
            self._stop_pgpool(why)
        if fence is not None:
            log.warning(said(fence))
            with self._recorded(fence, why):
                if not ended:
                    raise OperationError(postmaster.LEFT, hint=postmaster.LEFT_HINT)

    def _stop_pgpool(self, why: str) -> None:
        action = StopPgpool(self.here.me.name, fencing.REASON)
        log.warning(said(action))
        with self._recorded(action, why):
            pgpool_service.stop_pgpool(self.here, action)

    @contextlib.contextmanager
    def _recorded(self, action: Fence | StopPgpool, why: str) -> Iterator[None]:
        """Record an action with its failure, which the loop's next round reports as well."""
        with (
            contextlib.suppress(ClusterError),
            recording.timed(self.here, kind_of(action), said(action), why=why),
        ):
            yield
