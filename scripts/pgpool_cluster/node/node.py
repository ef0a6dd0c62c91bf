"""Hold the state of a running node: its cluster, its server, its record, its peers and its facts."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from ..configuration.users import Users
from ..decision.facts import replay
from ..decision.facts.diverged_report import DivergedReport
from ..decision.facts.excuse import Excuse
from ..decision.facts.facts import ClusterFacts, NodeFacts, PgpoolFacts, Postgresql
from ..decision.facts.pause import Pause
from ..definition.cluster import Cluster, Node, Service
from ..ground import log, paths
from ..ground.errors import OperationError
from ..ground.shared import Shared
from ..ground.usage import Usage
from ..ground.waiting import poll
from ..machine import pgpool
from ..machine.record import Record
from ..machine.wal import archive, diverged
from ..postgresql.database import HANGING_SECONDS, Database
from ..transport.heartbeats import Heartbeats
from ..transport.peers import Answering, Peers, Progress
from ..transport.protocol import LookRequest, Request
from .history import History
from .last_facts import LastFacts
from .pgpool_view import PgpoolView
from .under_way import Published, UnderWay

T = TypeVar("T")
A = TypeVar("A")
LOOK_SECONDS = 2.5
"""Seconds that another node may take to answer before it counts as unreachable."""
_OWN_SECONDS = 2.2
"""Seconds in which this node collects its own facts, so that it answers before it counts as unreachable."""
_FACTS_KEPT_SECONDS = 0.3
_OLD_SECONDS = 1.0
"""Seconds after which facts are too old, because other nodes answered late. They are requested again."""
_LONGEST_SECONDS = 6.0
"""Seconds that all nodes' first answers, and this node's own facts, take at most, unless this program is suspended."""
_SIGHT_SECONDS = 10.0
_SIGHT_PAUSE_SECONDS = 0.3
_ARCHIVE_KEPT_SECONDS = 10.0
_ARCHIVE_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Answer:
    """Another node's facts, and when they were requested, by the monotonic clock. They may be that old."""

    facts: NodeFacts
    asked: float

    @property
    def age(self) -> float:
        return time.monotonic() - self.asked


def _nobody(request: Request[A], progress: Progress, peer: str = "", /) -> A:
    del progress, peer
    raise OperationError(f"the agent does not answer {request.do!r} here", hint="systemctl restart pgpool2-cluster")


@dataclass(slots=True)
class Here:
    """One node of a running cluster, as its agent sees it. Several threads use it."""

    cluster: Cluster
    me: Node
    database: Database | None
    peers: Peers
    record: Record
    loaded: str = ""
    """Hash of the cluster.yml that `cluster` was read from."""
    note: Published[str] = field(default_factory=lambda: Published(""), repr=False)
    """The reason why this node waits or refuses an action, with a hint; "" if it does neither."""
    chores: Published[str] = field(default_factory=lambda: Published(""), repr=False)
    """The failures of its housekeeping and other matters that need attention, with a hint; "" if there are none."""
    under_way: UnderWay = field(default_factory=UnderWay, repr=False)
    history: History = field(default_factory=History, repr=False)
    seen: Published[ClusterFacts] = field(default_factory=lambda: Published(ClusterFacts()), repr=False)
    """The facts of all nodes that this node collected last."""
    asked: Published[Mapping[str, float]] = field(default_factory=lambda: Published({}), repr=False)
    """When, by the monotonic clock, each other node was asked for the facts in `seen`."""
    answer: Answering = field(default=_nobody, repr=False)
    """Answers this node's own requests in the same way as requests from another node."""
    silent: Published[frozenset[str]] = field(default_factory=lambda: Published(frozenset()), repr=False)
    """The nodes of which this one has no sign of life."""
    beats: Heartbeats = field(init=False, repr=False)
    """The heartbeats between this node and the others."""
    _looks: Shared[NodeFacts] = field(init=False, repr=False)
    _last: LastFacts = field(default_factory=LastFacts, repr=False)
    _pgpool: PgpoolView = field(init=False, repr=False)
    _archive: Shared[Usage | None] = field(init=False, repr=False)
    _diverged: Shared[tuple[DivergedReport, ...]] = field(init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Guards the cluster and the record. Never held while facts are collected."""

    def __post_init__(self) -> None:
        self.beats = Heartbeats(self.cluster, self.me)
        self._looks = Shared(self._looked, kept=_FACTS_KEPT_SECONDS, limit=_OWN_SECONDS)
        self._pgpool = PgpoolView(lambda: pgpool.look(self.cluster, self.silent.value))
        self._archive = Shared(
            lambda: archive.usage(paths.ARCHIVE), kept=_ARCHIVE_KEPT_SECONDS, limit=_ARCHIVE_WAIT_SECONDS
        )
        self._diverged = Shared(
            lambda: diverged.listed(paths.DIVERGED), kept=_ARCHIVE_KEPT_SECONDS, limit=_ARCHIVE_WAIT_SECONDS
        )

    @property
    def server(self) -> Database:
        """The node's database server; raises OperationError if the node runs no PostgreSQL."""
        if self.database is None:
            raise OperationError(f"{self.me.name} runs no PostgreSQL", hint="cluster.yml lists the nodes that do")
        return self.database

    @property
    def returns_by_itself(self) -> bool:
        """Whether a diverged node may rejoin without a command: cluster.yml permits it, and tries are left."""
        return self.cluster.automatic_return and not self.under_way.returns.exhausted

    def remember(self, **changes: object) -> None:
        """Change the record, first on disk and then in memory. Raises ServerError if it cannot be written."""
        with self._lock:
            changed = self.record.with_changes(**changes)
            if changed != self.record:
                changed.save(paths.RECORD)
                self.record = changed
            self._looks.forget()

    def note_term(self, term: int, **changes: object) -> bool:
        """Record a new term, together with other `changes` of the record.

        Return False if this or a later term is already known, so that only one of two concurrent claimants succeeds.
        """
        with self._lock:
            if term <= self.record.term:
                return False
            self.remember(term=term, **changes)
            return True

    def note_lead(self, term: int, **changes: object) -> bool:
        """Record that this node leads in a term, together with other `changes`. Return False if a later one is known.

        A node that has answered a later claim must not take up its own.
        """
        with self._lock:
            if term < self.record.term:
                return False
            self.remember(led=term, **changes)
            return True

    def note_excuse(self, excuse: Excuse) -> bool:
        """Record a primary's excuse of standbys. Return False if a later excuse or a later term is known."""
        with self._lock:
            if excuse.term < self.record.term or excuse.place < self.record.excuse.place:
                return False
            if excuse.place == self.record.excuse.place:
                return excuse == self.record.excuse
            self.remember(excuse=excuse)
            return True

    def note_pause(self, pause: Pause) -> bool:
        """Record a pause of the cluster, or its end. Return False if a later one is known."""
        with self._lock:
            if pause.place < self.record.pause.place:
                return False
            self.remember(pause=pause)
            return True

    def renew(self, fresh: Here) -> None:
        """Switch to the cluster.yml that `fresh` was read from. Other threads continue their work."""
        self.peers.close()
        with self._lock:
            self.cluster, self.me, self.database, self.peers = fresh.cluster, fresh.me, fresh.database, fresh.peers
            self.loaded = fresh.loaded
        self.beats.renew(fresh.cluster, fresh.me)
        self.forget_looks()

    def forget_looks(self) -> None:
        """Discard kept facts, so that the next call collects new ones."""
        self._looks.forget()
        self._pgpool.forget()
        self._diverged.forget()

    def look(self) -> NodeFacts:
        """Return the facts of this node, at most 0.3 s old.

        Concurrent callers share them. If collecting them takes more than 2.2 s, as on a busy machine, the node is
        reachable, but its server counts as one that does not answer. Raises OperationError if facts have never been
        collected within that time.
        """
        try:
            return self.marked(self._last.renew(self._looks.get()))
        except TimeoutError as error:
            last, seconds = self._last.late()
            if last is None:
                hint = "a disk or a program hangs: dmesg; ps -eo stat,pid,args | grep ^D"
                raise OperationError(f"{self.me.name} cannot collect its own facts: {error}", hint=hint) from error
            return self.marked(self._busy(last, seconds))

    def marked(self, facts: NodeFacts) -> NodeFacts:
        """Return this node's facts, in which a standby that an administrator has restarted takes no reads."""
        restarts = self.under_way.restarting and facts.standby
        return dataclasses.replace(facts, stalled=replay.RESTARTING) if restarts else facts

    def _busy(self, last: NodeFacts, seconds: float) -> NodeFacts:
        """Return the last facts with the present record. The state of the server is unknown for so many seconds."""
        record, state = self.record, last.postgresql
        if state in (Postgresql.UP, Postgresql.STARTING):
            hangs = seconds > HANGING_SECONDS or self.beats.frozen
            state = Postgresql.HANGING if hangs else Postgresql.STARTING
        return self._recorded(dataclasses.replace(last, postgresql=state, streaming=False), record)

    def _recorded(self, facts: NodeFacts, record: Record) -> NodeFacts:
        """Return the facts with those that the record has."""
        return dataclasses.replace(
            facts,
            promoting=self.under_way.promoting,
            half_copied=bool(record.copying),
            term=record.term,
            led=record.led,
            restart=record.restart,
            apart=record.apart,
            held=record.held,
            standbys_came=record.standbys_came,
            excuse=record.excuse,
            silent=self.silent.value,
            loss=record.loss,
            pause=record.pause,
            origins=record.origins,
        )

    def _looked(self) -> NodeFacts:
        began = time.monotonic()
        found = self._collected()
        if self.database is not None:
            self.beats.publish(found.postgresql, began)
        return found

    def _collected(self) -> NodeFacts:
        record = self.record
        found = NodeFacts(
            self.me.name,
            file=self.cluster.fingerprint,
            applied=self.loaded in ("", paths.laid_file()),
            users=Users.load(paths.USERS).serial,
            key=paths.laid_fingerprint(),
            virtual_ip=pgpool.has_address(self.cluster.virtual_ip),
            pgpool=self._looked_at_pgpool(),
            archive=self._looked_at_archive(),
            beats=self.beats.active,
            diverged=self._looked_at_diverged(),
        )
        facts = self._recorded(found, record)
        if self.database is not None:
            names = self.cluster.standby_names(came=record.standbys_came, dropped=record.dropped)
            facts = self.database.look(facts, self.cluster, names if self.cluster.names_standbys else None)
        if self.beats.frozen:  # a session from before may still answer, but no client can log in
            facts = dataclasses.replace(facts, postgresql=Postgresql.HANGING)
        member = record.system is not None and facts.system in (None, record.system)
        return dataclasses.replace(facts, member=member)

    def _looked_at_archive(self) -> Usage | None:
        if not self.cluster.archives(self.me):
            return None
        try:
            return self._archive.get()
        except TimeoutError:  # its disk hangs, which must not delay the other facts
            return None

    def _looked_at_diverged(self) -> tuple[DivergedReport, ...]:
        try:
            return self._diverged.get()
        except TimeoutError:  # its disk hangs, which must not delay the other facts
            return ()

    def _looked_at_pgpool(self) -> PgpoolFacts | None:
        if Service.PGPOOL not in self.me.runs:
            return None
        # During a failover or beside a silent host, pgpool-II would wait for that host before it answers.
        waits = self.under_way.pgpool_busy or self.under_way.mute.value or self.silent.value
        return self._pgpool.get(wait=not waits)

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query on this node's server and return its rows; raises OperationError."""
        return sql_errors(lambda: self.server.query(sql, values))

    def on(self, name: str, request: Request[A], *, seconds: float) -> A:
        """Send a request to this node or to another one, and return its answer; raises ClusterError.

        `seconds` limit the time that another node may take to answer.
        """
        if name == self.me.name:
            return self.answer(request, log.info)
        return self.peers.ask(name, request, seconds=seconds)

    def look_at_all(self, *, fresh: bool = False) -> ClusterFacts:
        """Return the facts of all nodes, `fresh` or at most a moment old; raises OperationError as `look` does.

        Writable nodes are queried last, so that no standby seems ahead of them. Facts that are older than LOOK_SECONDS
        at the end, for example after this program was suspended, are dropped: that node counts as unreachable. Nodes
        that did not answer before this program was suspended are asked again.
        """
        if fresh:
            self.forget_looks()
        began = time.monotonic()
        self._looks.prepare()
        found = self._ask_for_looks(self.peers.peers, fresh=fresh)
        mine = self.look()
        suspended = time.monotonic() - began > _LONGEST_SECONDS
        old = list(self.peers.peers) if suspended else [name for name, seen in found.items() if seen.age > _OLD_SECONDS]
        found |= self._ask_for_looks(old, fresh=fresh)
        writable = [name for name, seen in found.items() if seen.facts.writable]
        found |= self._ask_for_looks(writable, fresh=True)
        if mine.writable:
            self.forget_looks()
            mine = self.look()
        facts = {name: seen.facts for name, seen in found.items() if seen.age < LOOK_SECONDS}
        every = ClusterFacts({self.me.name: mine, **facts})
        self.asked.publish({name: seen.asked for name, seen in found.items()})
        self.seen.publish(every)
        return every

    def look_until(self, enough: Callable[[ClusterFacts], object]) -> ClusterFacts:
        """Collect facts until they are `enough` or all database nodes answer, for at most 10 s.

        A node that has just booted connects within seconds.
        """

        def look() -> ClusterFacts:
            self.forget_looks()
            return self.look_at_all()

        def complete(facts: ClusterFacts) -> bool:
            return bool(enough(facts)) or all(facts.of(node.name).reachable for node in self.cluster.databases)

        return poll(look, until=complete, seconds=_SIGHT_SECONDS, pause=_SIGHT_PAUSE_SECONDS)

    def _ask_for_looks(self, names: Iterable[str], *, fresh: bool) -> dict[str, _Answer]:
        asked = time.monotonic()
        answers = self.peers.ask_some(list(names), LookRequest(fresh=fresh), seconds=LOOK_SECONDS)
        # A node may report only its own facts.
        return {name: _Answer(facts, asked) for name, facts in answers.items() if facts.node == name}


def sql_errors(work: Callable[[], T]) -> T:
    """Run `work` and return its result. Turn an error of PostgreSQL into an OperationError."""
    try:
        return work()
    except psycopg2.Error as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise OperationError(f"PostgreSQL: {reason}", hint="see its log; pg_lsclusters shows the path") from error
