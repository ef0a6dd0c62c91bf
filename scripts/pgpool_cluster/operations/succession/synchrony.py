"""Manage the standbys that commits wait for, and those that a failover does not need; the primary decides both.

Every commit is on `synchronous` of the standbys listed in synchronous_standby_names. So a standby can take over only
while fewer listed standbys than that are missing (decide.py). A standby that is away, or that an administrator keeps
out of use, would block every failover. The primary therefore *drops* it from the list. Once no commit can wait for that
standby any more, and enough of the others have every acknowledged commit, the primary *excuses* it: it tells all nodes
that a failover does not need it. Before the primary lists the standby again, more than half of the nodes must have
recorded that the excuse is over. docs/explanation/load-balancing-and-consistency.md explains the rule.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...decision.facts.excuse import Excuse
from ...decision.facts.facts import ClusterFacts, Lsn, NodeFacts
from ...decision.situation import rightful_primary
from ...definition.cluster import Cluster
from ...ground import log
from ...ground.errors import ClusterError, OperationError
from ...machine import units
from ...machine.record import Record
from ...node.node import LOOK_SECONDS, Here, sql_errors
from ...transport.protocol import ExcuseRequest

AWAY_SECONDS = 10.0
"""How long a standby may stop receiving, for example for a restart, before commits no longer wait for it."""
_RELOAD_SECONDS = 2.0
"""Time after which every walsender has read a configuration that one session has already read."""
_RETRY_PAUSE_SECONDS = 10.0
_QUERY_SECONDS = 2.0
_MOST_LAG_BYTES = 16 << 20
"""How far a standby may lag when commits begin to wait for it."""
_SENDERS = "SELECT application_name, flush_lsn::text, sync_priority FROM pg_stat_replication WHERE state = 'streaming'"


@dataclass(frozen=True, slots=True)
class Sender:
    """A connected standby from the primary's view: how far it has flushed, and whether commits wait for it."""

    flushed: Lsn | None
    listed: bool


@dataclass(frozen=True, slots=True)
class Senders:
    """The position up to which the primary has flushed, and its connected standbys by name."""

    end: Lsn
    standbys: Mapping[str, Sender]


def ask_senders(here: Here) -> Senders:
    """Query this node's server, a primary, for its standbys; raises OperationError."""

    def ask() -> Senders:
        query = here.server.query
        end = Lsn.parse(query("SELECT pg_current_wal_flush_lsn()::text", seconds=_QUERY_SECONDS)[0][0])
        rows = query(_SENDERS, seconds=_QUERY_SECONDS)
        return Senders(end, {name: Sender(at and Lsn.parse(at), rank > 0) for name, at, rank in rows})

    return sql_errors(ask)


def _receives(found: NodeFacts, primary: str) -> bool:
    return found.member and found.standby and found.streaming and found.follows == primary and not found.half_copied


def _usable(cluster: Cluster, primary: str, facts: ClusterFacts, dropped: tuple[str, ...]) -> int:
    """Return how many listed standbys receive WAL now and are not held."""
    listed = (facts.of(node.name) for node in cluster.databases if node.name not in (primary, *dropped))
    return sum(_receives(found, primary) and not found.held for found in listed)


def to_drop(
    cluster: Cluster, primary: str, facts: ClusterFacts, dropped: tuple[str, ...], away: frozenset[str]
) -> tuple[str, ...]:
    """Return the listed standbys to drop; none if too few would remain for commits to continue.

    `away`: the standbys that have not received for AWAY_SECONDS.
    """
    if _usable(cluster, primary, facts, dropped) < cluster.synchronous:
        return ()
    listed = (facts.of(node.name) for node in cluster.databases if node.name not in (primary, *dropped))
    return tuple(node.node for node in listed if node.held or node.half_copied or node.node in away)


def to_list(cluster: Cluster, primary: NodeFacts, facts: ClusterFacts, dropped: tuple[str, ...]) -> tuple[str, ...]:
    """Return the dropped standbys to list again, and dropped names that cluster.yml no longer has.

    A held standby is listed again only if commits would otherwise wait for standbys that do not receive.
    """
    few = _usable(cluster, primary.node, facts, dropped) < cluster.synchronous
    known = {node.name for node in cluster.databases}
    nodes = [facts.of(name) for name in dropped]
    ready = [node.node for node in nodes if _near(primary, node) and (few or not node.held)]
    return tuple(name for name in dropped if name not in known or name in ready)


def _near(primary: NodeFacts, found: NodeFacts) -> bool:
    if not _receives(found, primary.node) or found.position is None or primary.position is None:
        return False
    return primary.position.bytes - found.position.bytes <= _MOST_LAG_BYTES


def have_all(cluster: Cluster, primary: str, dropped: tuple[str, ...], senders: Senders, end: Lsn) -> bool:
    """Return whether enough listed standbys have flushed everything up to `end`, so that no dropped one is needed."""
    names = {node.name for node in cluster.databases} - {primary, *dropped}
    flushed = (sender.flushed for name, sender in senders.standbys.items() if name in names)
    return sum(at is not None and at >= end for at in flushed) >= cluster.synchronous


def kept(record: Record) -> tuple[str, ...]:
    """Return the standbys that a primary may still excuse in its next term, since it has not listed them again."""
    own = record.led > 0 and record.excuse.term == record.led
    return tuple(name for name in record.excuse.names if name in record.dropped) if own else ()


def announce(here: Here, excuse: Excuse) -> list[str]:
    """Send an excuse to every node; return the nodes, including this one, that have recorded it as the latest."""
    if not here.note_excuse(excuse):
        return []
    request = ExcuseRequest(excuse.term, excuse.serial, excuse.names, here.cluster.fingerprint)
    answers = here.peers.ask_all(request, seconds=LOOK_SECONDS)
    return [here.me.name, *(name for name, answer in answers.items() if answer.taken)]


@dataclass(slots=True)
class Synchrony:
    """The state of one node's synchrony. It is in memory only; losing it merely delays the next step."""

    here: Here
    _away: dict[str, float] = field(default_factory=dict)
    """Since when each standby has not received from this node, by the monotonic clock."""
    _of: tuple[int, tuple[str, ...]] = (0, ())
    """The term and the dropped standbys to which the next two fields apply."""
    _since: float | None = None
    """Since when the server has been running without the dropped standbys in its list."""
    _end: Lsn | None = None
    """The position that others must have flushed before the dropped standbys are excused."""
    _held: Excuse | None = None
    """The latest excuse that a majority has recorded."""
    _asked: float = float("-inf")
    """When `apply` was last requested."""
    _applying: bool = False
    _failure: ClusterError | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Guards `_applying`, `_asked` and `_failure`, which the thread of an `apply` changes, too."""

    @property
    def goes_on(self) -> tuple[object, ...]:
        """The state outside the record on which later steps depend."""
        lasting = self._since is not None
        return tuple(sorted(self._away)), self._of, lasting, self._end, self._held, self._failure is None

    def tend(self, facts: ClusterFacts) -> None:
        """Carry out the next step; the agent calls this in each round. Raises ClusterError, also if `apply` failed.

        A step waits only for queries and for answers of other nodes, each with a time limit.
        """
        here = self.here
        if not here.cluster.mode.streams or here.database is None or here.record.system is None:
            return
        mine, before = facts.of(here.me.name), here.record
        try:
            self._step(mine, facts)
        finally:
            named = (here.record.standbys_came, here.record.dropped) != (before.standbys_came, before.dropped)
            self._lay(mine, changed=named)

    def _step(self, mine: NodeFacts, facts: ClusterFacts) -> None:
        here = self.here
        primary = rightful_primary(here.cluster, facts)
        if primary is not None and not here.record.standbys_came and self._came(facts):
            here.remember(standbys_came=True)
            return
        synchronous = here.cluster.names_standbys and here.cluster.synchronous and here.record.standbys_came
        if primary is mine and synchronous and here.record.led == here.record.term:
            self._lead(mine, facts)
            return
        self._away.clear()
        if primary is not mine and mine.standby and here.record.dropped:
            here.remember(dropped=())  # so that its list is complete if it takes over

    def _came(self, facts: ClusterFacts) -> bool:
        """Return whether `synchronous` standbys receive WAL, or another node knows that so many once did."""
        members = [member for member in facts.members(self.here.cluster) if member.system == self.here.record.system]
        receiving = sum(member.standby and member.streaming for member in members)
        known = any(member.standbys_came and not member.half_copied for member in members)
        return self.here.cluster.synchronous > 0 and (known or receiving >= self.here.cluster.synchronous)

    # The primary

    def _lead(self, mine: NodeFacts, facts: ClusterFacts) -> None:
        here, dropped = self.here, self.here.record.dropped
        away = self._find_away(facts)
        if self._of != (here.record.led, dropped):
            self._of, self._since, self._end = (here.record.led, dropped), None, None
        if back := to_list(here.cluster, mine, facts, dropped):
            self._take_back(back)
        elif gone := to_drop(here.cluster, mine.node, facts, dropped, away):
            log.warning(f"commits no longer wait for {', '.join(gone)}")
            here.remember(dropped=tuple(sorted({*dropped, *gone})))
        elif set(dropped) - set(self._excuse.names):
            self._find_excuse(mine)
        else:
            self._announce(self._excuse)

    def _find_away(self, facts: ClusterFacts) -> frozenset[str]:
        now = time.monotonic()
        for node in self.here.cluster.databases:
            if _receives(facts.of(node.name), self.here.me.name):
                self._away.pop(node.name, None)
            elif node != self.here.me:
                self._away.setdefault(node.name, now)
        return frozenset(name for name, since in self._away.items() if now - since >= AWAY_SECONDS)

    @property
    def _excuse(self) -> Excuse:
        """The last excuse of this primary."""
        record = self.here.record
        return record.excuse if record.excuse.term == record.led else Excuse(record.led, 0, ())

    def _announce(self, excuse: Excuse) -> bool:
        """Send an excuse to all nodes unless a majority has already recorded it; return whether a majority has."""
        if self._held != excuse and len(announce(self.here, excuse)) >= self.here.cluster.majority:
            self._held = excuse
        return self._held == excuse

    def _take_back(self, back: tuple[str, ...]) -> None:
        excuse = self._excuse
        if set(excuse.names) & set(back):
            rest = tuple(name for name in excuse.names if name not in back)
            excuse = Excuse(excuse.term, excuse.serial + 1, rest)
        if self._announce(excuse):
            log.info(f"commits wait for {', '.join(back)} again")
            self.here.remember(dropped=tuple(name for name in self.here.record.dropped if name not in back))

    def _find_excuse(self, mine: NodeFacts) -> None:
        """Excuse the dropped standbys once no commit can wait for them and others have every acknowledged commit."""
        here, dropped = self.here, self.here.record.dropped
        senders = ask_senders(here) if mine.laid else None
        if senders is None or any(name in dropped and sender.listed for name, sender in senders.standbys.items()):
            self._since = self._end = None
            return
        self._since = time.monotonic() if self._since is None else self._since
        if time.monotonic() - self._since < _RELOAD_SECONDS:
            return
        self._end = self._end or senders.end
        if have_all(here.cluster, here.me.name, dropped, senders, self._end):
            log.info(f"a failover no longer needs {', '.join(dropped)}")
            self._announce(Excuse(self._excuse.term, self._excuse.serial + 1, dropped))

    # Configuration

    def _lay(self, mine: NodeFacts, *, changed: bool) -> None:
        """Request an `apply` if the server runs with a wrong list; raises the error of the last `apply`."""
        with self._lock:
            failure, begins = self._failure, False
            if mine.laid and not changed:
                failure = self._failure = None
            elif mine.up and not self._applying and (changed or time.monotonic() - self._asked >= _RETRY_PAUSE_SECONDS):
                self._applying, self._asked, begins = True, time.monotonic(), True
        if begins:
            threading.Thread(target=self._apply, daemon=True).start()
        if failure is not None:
            raise failure

    def _apply(self) -> None:
        failure: ClusterError | None = None
        try:
            units.control("apply")
            # `apply` does not reload a server that has just begun to answer, because its unit is not active yet.
            sql_errors(lambda: self.here.server.query("SELECT pg_reload_conf()", seconds=_QUERY_SECONDS))
        except ClusterError as error:
            failure = error
        except Exception as error:  # housekeeping reports it like any other failure
            failure = OperationError(f"apply: {error}", hint="run pgpoolctl apply on this node")
        finally:
            with self._lock:
                self._failure, self._applying = failure, False
            self.here.forget_looks()
