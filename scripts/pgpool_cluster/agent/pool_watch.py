"""Inform this node's pgpool-II while the agent's loop is busy, for example with a copy that takes hours.

Only this agent tells that pgpool-II which nodes are up and which one is the primary. Without this watch, its clients
would be sent to a former primary until the copy has ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..decision import pooling, standstill
from ..decision.actions import Attach, Detach, Redirect
from ..decision.situation import Actions, Policy, Situation, rightful_primary
from ..definition.cluster import Service
from ..ground import log
from ..ground.errors import ClusterError
from ..node.node import Here
from ..operations import act

BUSY_SECONDS = 3.0
"""Time for which another thread holds `acting` before this watch informs pgpool-II."""
TOLD_SECONDS = 10.0
"""Time after which the same action is requested again."""
_PAUSE_SECONDS = 1.0
_END_SECONDS = 2.0


@dataclass(slots=True)
class PoolWatch:
    """The watch of one node. Its loop and its requests hold `acting` while they change the node."""

    here: Here
    acting: threading.RLock
    _busy_since: float | None = None
    _told: dict[Attach | Detach | Redirect, float] = field(default_factory=dict)
    """When, by the monotonic clock, these actions were requested last."""
    _failed: str = ""
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch in a thread while the block runs."""
        thread = threading.Thread(target=self._run, name="pgpool-II", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(_PAUSE_SECONDS):
            why = ""
            try:
                self.step()
            except ClusterError as error:
                why = error.message
            except psycopg2.Error as error:
                why = str(error).strip()
            except Exception as error:  # the watch outlives any fault of a step
                why = f"{type(error).__name__}: {error}"
            if why and why != self._failed:
                log.warning(f"pgpool-II is not informed during a long operation: {why}")
            self._failed = why

    def step(self) -> None:
        """Inform pgpool-II if the loop has been busy for BUSY_SECONDS; raises ClusterError or psycopg2.Error."""
        here, now = self.here, time.monotonic()
        if not here.cluster.mode.streams or Service.PGPOOL not in here.me.runs or self._is_free():
            self._busy_since = None
            return
        self._busy_since = now if self._busy_since is None else self._busy_since
        if now - self._busy_since < BUSY_SECONDS:
            return
        self._told = {action: at for action, at in self._told.items() if now - at < TOLD_SECONDS}
        for action in self._decided():
            if isinstance(action, Attach | Detach | Redirect) and action not in self._told:
                self._told[action] = now
                act.perform(here, action)

    def _is_free(self) -> bool:
        if self.acting.acquire(blocking=False):
            self.acting.release()
            return True
        return False

    def _decided(self) -> Actions:
        """Return the actions for pgpool-II. The operation that holds `acting` attaches or detaches this node itself."""
        here = self.here
        facts = here.look_at_all()
        primary = rightful_primary(here.cluster, facts)
        situation = Situation(here.cluster, here.me, facts, facts.of(here.me.name), primary, Policy())
        actions = standstill.permitted(pooling.of_pgpool(situation), here.record.pause)
        return tuple(one for one in actions if isinstance(one, Redirect) or one.node != here.me.name)
