"""Recover a node with streaming replication, with the fewest changes that suffice."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ..copying import copying
from ..decision import recovery_plan
from ..decision.actions import Follow, Start
from ..decision.facts.facts import ClusterFacts, Postgresql
from ..decision.recovery_plan import Remedy
from ..decision.situation import rightful_primary
from ..ground.errors import ClusterError
from ..node.node import Here
from ..operations import postgresql_service
from ..transport.peers import Progress
from ..transport.protocol import DetachRequest

_DETACH_SECONDS = 10.0


def recover(here: Here, progress: Progress, *, force: bool = False) -> None:
    """Make this node a standby of the primary again; raises ClusterError.

    A node in use is refused before any change; with `force`, it is copied nevertheless.
    """
    _Recovery(here, progress, force=force).run()


@dataclass(frozen=True, slots=True)
class _Recovery:
    """One recovery of this node."""

    here: Here
    progress: Progress
    force: bool

    def run(self) -> None:
        here, name = self.here, self.here.me.name
        facts = here.look_until(lambda facts: rightful_primary(here.cluster, facts))
        primary = recovery_plan.source(rightful_primary(here.cluster, facts), name)
        self.progress(f"{primary.node} is the primary")
        if not self.force:
            recovery_plan.refuse_needless(here.cluster, facts, primary, name)
        here.remember(held=False)
        self._detach(facts)
        facts = here.look_at_all()
        remedy = Remedy.COPY if self.force else recovery_plan.remedy(primary, facts.of(name))
        self._apply(remedy, primary.node)

    def _detach(self, facts: ClusterFacts) -> None:
        """Detach this node during the recovery, if a pgpool-II answers and sends clients to it."""
        name = self.here.me.name
        pooler = recovery_plan.detacher(self.here.cluster, facts, name, force=self.force)
        if pooler:
            self.progress(f"detaching {name}")
            with suppress(ClusterError):
                self.here.on(pooler, DetachRequest(name, recovering=True), seconds=_DETACH_SECONDS)

    def _apply(self, remedy: Remedy, source: str) -> None:
        if remedy is Remedy.NOTHING:
            self.progress(f"{self.here.me.name} already follows {source}")
        elif remedy is Remedy.COPY:
            copying.clone(self.here, source, self.progress, loses=self.force)
        elif remedy is Remedy.REJOIN or not self._just_start(source):
            copying.rejoin(self.here, source, self.progress)

    def _just_start(self, source: str) -> bool:
        """Start a standby that is only down, and return whether it streams from the primary then."""
        here = self.here
        try:
            if here.look().postgresql is not Postgresql.UP:
                self.progress("starting it with its own data")
                postgresql_service.start(here, Start(here.me.name))
            postgresql_service.follow(here, Follow(here.me.name, source))
            copying.await_streaming(here, source)
        except ClusterError as error:
            self.progress(f"it does not rejoin with its own data: {error.message}")
            return False
        return True
