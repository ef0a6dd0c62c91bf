"""The agent's chores besides its decisions: users, the WAL archive, sessions with unreachable nodes, and so on.

A failed chore stops neither the other chores nor the decisions. It is retried in the next round. `status` shows the
failure, and the journal logs it once until it changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..configuration.users import Users
from ..decision.actions import CreateSlots
from ..decision.facts.facts import BackendState, ClusterFacts
from ..decision.reports.events import EventKind
from ..decision.situation import in_service, rightful_primary
from ..ground import log, paths
from ..ground.errors import ClusterError
from ..machine import units
from ..machine.wal.archive import Keeper
from ..node import recording
from ..node.node import Here
from ..operations import postgresql_service, timelines, wal_space
from ..operations.accounts import user_lists
from ..operations.accounts.own_database import OwnDatabase
from ..operations.applying import Applying
from ..operations.proof import Proof
from ..operations.succession.synchrony import Synchrony
from ..recovery import target
from ..recovery.vigil import Vigil

Chore = Callable[[ClusterFacts], None]
_APPLY_PAUSE_SECONDS = 10.0
"""Pause between two tries to apply the configuration."""
_USERS_PAUSE_SECONDS = 5.0
"""Pause between two tries to fetch the users: the list is long, and may be invalid."""
_RULES_PAUSE_SECONDS = 60.0
"""Pause between two checks of the packet filter by root."""
_DISK_PAUSE_SECONDS = 60.0
"""Pause between two checks of the free space for WAL."""


@dataclass(slots=True)
class Housekeeping:
    """One node's chores and their state between rounds."""

    here: Here
    vigil: Vigil
    more: Mapping[str, Chore] = field(default_factory=dict)
    """Further chores from the caller, by their descriptions."""
    _synchrony: Synchrony = field(init=False)
    _proof: Proof = field(init=False)
    _own_database: OwnDatabase = field(init=False)
    _keeper: Keeper = field(default_factory=lambda: Keeper(paths.ARCHIVE))
    _gone: set[str] = field(default_factory=set)
    _failed: dict[str, str] = field(default_factory=dict)
    _apply_from: float = float("-inf")
    _applied: ClusterError | None = None
    """The error of the last try to apply cluster.yml."""
    _disk: str = ""
    _disk_checked: float = float("-inf")
    _rules_from: float = float("-inf")
    _users_from: float = float("-inf")

    def __post_init__(self) -> None:
        self._synchrony = Synchrony(self.here)
        applying = Applying()
        self._proof = Proof(self.here, applying)
        self._own_database = OwnDatabase(self.here, applying)

    def keep(self, facts: ClusterFacts) -> str:
        """Do every chore once, and return one line with failures and warnings; "" if there are none. Never raises."""
        chores: dict[str, Chore] = {
            "report the last failover": self._report_failover,
            "end sessions with unreachable nodes": self._hang_up,
            "continue a recovery": self._attend,
            "apply cluster.yml": self._apply,
            "verify the servers' certificates": self._proof.tend,
            "create the database of the cluster's roles": self._give_database,
            "apply synchronous replication": self._synchrony.tend,
            "record in which term each timeline began": self._note_origins,
            "fetch the users": self._take_users,
            "prune the WAL archive": self._prune,
            "check the free space for WAL": self._look_after_disk,
            "protect watchdog, heartbeats and pcp by the packet filter": self._keep_rules,
            **self.more,
        }
        for name, chore in chores.items():
            self._do(name, chore, facts)
        failures = [f"cannot {name}: {why}" for name, why in self._failed.items()]
        return "; ".join([*failures, *([self._disk] if self._disk else [])])

    def _do(self, name: str, chore: Chore, facts: ClusterFacts) -> None:
        why = ""
        try:
            chore(facts)
        except ClusterError as error:
            why = f"{error.message}; hint: {error.hint}"
        except psycopg2.Error as error:
            why = f"PostgreSQL: {str(error).strip()}"
        except Exception as error:
            why = f"{type(error).__name__}: {error}; hint: journalctl -u {paths.UNIT}"
        if why and self._failed.get(name) != why:
            log.warning(f"cannot {name}: {why}")
        if why:
            self._failed[name] = why
        else:
            self._failed.pop(name, None)

    def _report_failover(self, facts: ClusterFacts) -> None:
        """Record how long each stage of a failover to this node took."""
        here = self.here
        pool = facts.of(here.me.name).pgpool
        found = here.under_way.failover.report(pooled=pool is None or pool.primary == here.me.name)
        if found is not None:
            recording.note(here, EventKind.FAILOVER, found.text, seconds=found.seconds)

    def _hang_up(self, facts: ClusterFacts) -> None:
        """Kill TCP connections to nodes that are down, once per outage; sessions blocked on them would never return."""
        here = self.here
        pool = here.look().pgpool
        down = [name for name, state in pool.backends.items() if state is BackendState.DOWN] if pool else []
        gone = [node for node in here.cluster.databases if node.name in down and not facts.of(node.name).reachable]
        fresh = [node for node in gone if node.name not in self._gone]
        self._gone = {node.name for node in gone}  # set this first, so that a failure is not retried in each round
        for node in fresh:
            log.warning(f"{node.name} is unreachable: ending sessions with it")
            units.hang_up(here.cluster, node)

    def _apply(self, _: ClusterFacts) -> None:
        """Retry to apply cluster.yml if that has failed, as it may at the start of the agent."""
        if self.here.loaded in ("", paths.laid_file()):
            self._applied = None
            return
        if time.monotonic() >= self._apply_from:
            self._apply_from = time.monotonic() + _APPLY_PAUSE_SECONDS
            try:
                units.control("apply")
            except ClusterError as error:
                self._applied = error
            else:
                self._applied = None
        if self._applied is not None:
            raise self._applied

    def _attend(self, facts: ClusterFacts) -> None:
        if self.here.cluster.mode.streams:
            return
        if self.here.under_way.rebuilding.under_way:
            target.attend(self.here)
        self.vigil.tend(facts)

    def _take_users(self, facts: ClusterFacts) -> None:
        newest = max(facts.nodes.values(), key=lambda node: node.users)
        stale = newest.users > Users.load(paths.USERS).serial and newest.node != self.here.me.name
        if stale and time.monotonic() >= self._users_from:
            self._users_from = time.monotonic() + _USERS_PAUSE_SECONDS
            user_lists.store_users(user_lists.users_of(self.here, newest.node))

    def _note_origins(self, facts: ClusterFacts) -> None:
        timelines.tend(self.here, facts)

    def _give_database(self, facts: ClusterFacts) -> None:
        self._own_database.tend(facts, writes=writes(self.here, facts))

    def _prune(self, _: ClusterFacts) -> None:
        here = self.here
        if here.cluster.archives(here.me):
            self._keeper.tend(keep_hours=here.cluster.archive.keep_hours, keep_from=here.under_way.drain.archive_from)

    def _keep_rules(self, _: ClusterFacts) -> None:
        """Ask root to reload the packet filter if it is gone; only root can check that."""
        if time.monotonic() >= self._rules_from:
            units.control("firewall")
            self._rules_from = time.monotonic() + _RULES_PAUSE_SECONDS

    def _look_after_disk(self, facts: ClusterFacts) -> None:
        """Report the slot that fills the primary's disk, and give it up before the full disk stops PostgreSQL."""
        here = self.here
        if not here.cluster.mode.streams or not writes(self.here, facts):
            self._disk = ""
            return
        if time.monotonic() - self._disk_checked < _DISK_PAUSE_SECONDS:
            return
        self._disk_checked = time.monotonic()
        held = wal_space.held(here)
        self._disk = f"{held}; hint: {held.hint}" if held else ""
        if held is not None and held.given_up:
            log.warning(f"{held}: dropping the slot")
            postgresql_service.create_slots(here, CreateSlots(here.me.name, (held.slot,)))


def writes(here: Here, facts: ClusterFacts) -> bool:
    """Return whether this node is the primary or, if every node is a primary, in service."""
    if not here.cluster.mode.streams:
        return here.me.name in [member.node for member in in_service(here.cluster, facts)]
    primary = rightful_primary(here.cluster, facts)
    return primary is not None and primary.node == here.me.name
