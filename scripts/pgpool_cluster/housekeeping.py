"""What an agent sees to beside its decisions: users, the WAL archive, sessions with nodes that are gone, and so on.

Each chore fails by itself: none keeps another one, or a decision, from its turn. What fails is tried again in the next
round, and is told in `status` and, once until it changes, in the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from . import act, log, paths, two_stages, units, wal_space
from .actions import CreateSlots
from .answers import store_users, users_of
from .applying import Applying
from .archive import Keeper
from .cluster import Service
from .errors import ClusterError
from .facts import BackendState, ClusterFacts
from .node import Here
from .own_database import OwnDatabase
from .proof import Proof
from .situation import in_service, rightful_primary
from .synchrony import Synchrony
from .users import Users
from .vigil import Vigil

Chore = Callable[[ClusterFacts], None]
_APPLY_SECONDS = 10.0
"""Seconds between two tries to lay configuration down."""
_USERS_SECONDS = 5.0
"""Seconds between two tries to take users over: the list is long, and may be no list."""
_RULES_SECONDS = 60.0
"""Seconds between two looks of root's at the firewall's rules."""
_DISK_SECONDS = 60.0
"""Seconds between two looks at the room that is left for WAL."""


@dataclass(slots=True)
class Housekeeping:
    """One node's chores, and what they remember from round to round."""

    here: Here
    vigil: Vigil
    more: Mapping[str, Chore] = field(default_factory=dict)
    """Chores of others, by what they are for."""
    _synchrony: Synchrony = field(init=False)
    _proof: Proof = field(init=False)
    _own_database: OwnDatabase = field(init=False)
    _keeper: Keeper = field(default_factory=lambda: Keeper(paths.ARCHIVE))
    _gone: set[str] = field(default_factory=set)
    _failed: dict[str, str] = field(default_factory=dict)
    _apply_from: float = float("-inf")
    _applied: ClusterError | None = None
    """Why the last try to lay cluster.yml down came to nothing."""
    _disk: str = ""
    _disk_looked: float = float("-inf")
    _rules_from: float = float("-inf")
    _users_from: float = float("-inf")

    def __post_init__(self) -> None:
        self._synchrony = Synchrony(self.here)
        applying = Applying()
        self._proof = Proof(self.here, applying)
        self._own_database = OwnDatabase(self.here, applying)

    def keep(self, facts: ClusterFacts) -> str:
        """Do every chore once, and return in one line what failed or is to be told; "" for nothing. Never raises."""
        chores: dict[str, Chore] = {
            "end sessions with nodes that are gone": self._hang_up,
            "see a recovery through": self._attend,
            "lay down cluster.yml": self._apply,
            "see that servers prove themselves": self._proof.tend,
            "give the cluster's roles a database": self._give_database,
            "lay down synchronous replication": self._synchrony.tend,
            "take over the users": self._take_users,
            "prune the WAL archive": self._prune,
            "look after the room for WAL": self._look_after_disk,
            "keep strangers out of watchdog and pcp": self._keep_rules,
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

    def _hang_up(self, facts: ClusterFacts) -> None:
        """End this host's connections to nodes that are gone, once each: they would wait for ever."""
        here = self.here
        believed = here.look().pgpool
        gone = {
            node.name: node
            for node in here.cluster.databases
            if believed is not None and believed.backends.get(node.name) is BackendState.DOWN
            and not facts.of(node.name).reachable
        }  # fmt: skip
        fresh = [node for name, node in gone.items() if name not in self._gone]
        self._gone = set(gone)  # first: one that cannot be hung up on is not tried again in each round
        for node in fresh:
            log.warning(f"{node.name} is gone: sessions with it are ended")
            units.hang_up(here.cluster, node)

    def _apply(self, _: ClusterFacts) -> None:
        """Have cluster.yml laid down again where that failed, as at the start of the agent."""
        if self.here.loaded in ("", paths.laid_file()):
            self._applied = None
            return
        if time.monotonic() >= self._apply_from:
            self._apply_from = time.monotonic() + _APPLY_SECONDS
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
        if self.here.promoting:
            two_stages.attend(self.here)
        self.vigil.tend(facts)

    def _take_users(self, facts: ClusterFacts) -> None:
        newest = max(facts.nodes.values(), key=lambda found: found.users)
        wanted = newest.users > Users.load(paths.USERS).serial and newest.node != self.here.me.name
        if wanted and time.monotonic() >= self._users_from:
            self._users_from = time.monotonic() + _USERS_SECONDS
            store_users(users_of(self.here, newest.node))

    def _give_database(self, facts: ClusterFacts) -> None:
        self._own_database.tend(facts, writes=writes(self.here, facts))

    def _prune(self, _: ClusterFacts) -> None:
        here = self.here
        if here.cluster.archives(here.me):
            self._keeper.tend(keep_hours=here.cluster.archive.keep_hours, keep_from=here.archive_needed)

    def _keep_rules(self, _: ClusterFacts) -> None:
        """Have root look whether the firewall's rules are still loaded: only root can."""
        if Service.PGPOOL in self.here.me.runs and time.monotonic() >= self._rules_from:
            units.control("firewall")
            self._rules_from = time.monotonic() + _RULES_SECONDS

    def _look_after_disk(self, facts: ClusterFacts) -> None:
        """Name the slot that fills the primary's disk, and give it up before PostgreSQL stops for want of room."""
        here = self.here
        if not here.cluster.mode.streams or not writes(self.here, facts):
            self._disk = ""
            return
        if time.monotonic() - self._disk_looked < _DISK_SECONDS:
            return
        self._disk_looked = time.monotonic()
        held = wal_space.held(here)
        self._disk = f"{held}; hint: {held.hint}" if held else ""
        if held is not None and held.given_up:
            log.warning(f"{held}: it is given up")
            act.create_slots(here, CreateSlots(here.me.name, (held.slot,)))


def writes(here: Here, facts: ClusterFacts) -> bool:
    """Tell whether this node is the primary, or one in service where every node is a primary."""
    if not here.cluster.mode.streams:
        return here.me.name in [found.node for found in in_service(here.cluster, facts)]
    primary = rightful_primary(here.cluster, facts)
    return primary is not None and primary.node == here.me.name
