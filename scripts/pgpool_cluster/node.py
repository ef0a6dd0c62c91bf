"""Hold the state of a running node: its cluster, its server, its record, its peers and its facts."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from . import archive, log, paths, pgpool
from .cluster import Cluster, Node, Service
from .copies import Copies
from .database import HANGING_SECONDS, Database
from .errors import OperationError
from .excuse import Excuse
from .facts import ClusterFacts, NodeFacts, PgpoolFacts, Postgresql
from .peers import Answering, Peers, Progress
from .protocol import LookRequest, Request
from .record import Record
from .shared import Shared
from .usage import Usage
from .users import Users

T = TypeVar("T")
A = TypeVar("A")
LOOK_SECONDS = 2.5
"""Seconds that another node may take to answer before it counts as unreachable."""
_OWN_SECONDS = 2.2
"""Seconds in which this node collects its own facts, so that it answers before it counts as unreachable."""
_KEPT = 0.3
_OLD = 1.0
"""Seconds after which facts are too old, because other nodes answered late. They are requested again."""
_PGPOOL_KEPT = 1.0
_ARCHIVE_KEPT = 10.0
_PGPOOL_WAIT = 0.5
_ARCHIVE_WAIT = 0.5


@dataclass(slots=True)
class _Seen(Generic[T]):
    """A result that may be reused until `until`, by the monotonic clock."""

    value: T
    until: float


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
    promoting: bool = False
    note: str = ""
    """The reason why this node waits or refuses an action, with a hint; "" if it does neither."""
    chores: str = ""
    """The failures of its housekeeping and other matters that need attention, with a hint; "" if there are none."""
    copies: Copies = field(default_factory=Copies, repr=False)
    starting: bool = False
    """The agent is starting PostgreSQL itself, so the unit may start it."""
    answer: Answering = field(default=_nobody, repr=False)
    """Answers this node's own requests in the same way as requests from another node."""
    recovering: threading.Lock = field(default_factory=threading.Lock, repr=False)
    telling: Callable[[str], None] | None = field(default=None, repr=False)
    """Reports the progress of the running recovery to its requester; None if no recovery is running."""
    awaited: float = 0.0
    """Deadline, by the monotonic clock, for the next stage of a recovery; 0 if none is expected."""
    failure: str = ""
    """Why the last stage of a recovery failed."""
    taken_up: str = ""
    """The node that a second stage has just made a primary."""
    draining: float = 0.0
    """When, by the monotonic clock, a second stage began to wait for the end of sessions; 0 if none is waiting."""
    archive_needed: str = ""
    """The first WAL file that a running recovery needs from this node's archive; "" if no recovery is running."""
    silent: frozenset[str] = frozenset()
    """The nodes that stopped sending packets during a recovery (vigil.py)."""
    pgpool_busy: bool = False
    """pgpool-II waits for its failover_command and answers no request, so its last facts are used at once."""
    promotion: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _looks: Shared[NodeFacts] = field(init=False, repr=False)
    _last: NodeFacts | None = field(default=None, repr=False)
    """The last facts that were collected within the time limit."""
    _slow_since: float = 0.0
    """Since when, by the monotonic clock, collecting facts has exceeded its time limit; 0 if it does not."""
    _pgpool: _Seen[PgpoolFacts | None] | None = field(default=None, repr=False)
    _archive: Shared[Usage | None] = field(init=False, repr=False)
    _asking: threading.Thread | None = field(default=None, repr=False)
    _awaited: float = 0.0
    """Deadline, by the monotonic clock, until which facts wait for pgpool-II's answer."""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Guards the record. Never held while facts are collected."""

    def __post_init__(self) -> None:
        self._looks = Shared(self._looked, kept=_KEPT, limit=_OWN_SECONDS)
        self._archive = Shared(lambda: archive.usage(paths.ARCHIVE), kept=_ARCHIVE_KEPT, limit=_ARCHIVE_WAIT)

    @property
    def server(self) -> Database:
        """The node's database server; raises OperationError if the node runs no PostgreSQL."""
        if self.database is None:
            raise OperationError(f"{self.me.name} runs no PostgreSQL", hint="cluster.yml says which nodes do")
        return self.database

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

    def note_excuse(self, excuse: Excuse) -> bool:
        """Record a primary's excuse of standbys. Return False if a later excuse or a later term is known."""
        with self._lock:
            if excuse.term < self.record.term or excuse.place < self.record.excuse.place:
                return False
            if excuse.place == self.record.excuse.place:
                return excuse == self.record.excuse
            self.remember(excuse=excuse)
            return True

    def renew(self, fresh: Here) -> None:
        """Switch to the cluster.yml that `fresh` was read from. Other threads continue their work."""
        self.peers.close()
        with self._lock:
            self.cluster, self.me, self.database, self.peers = fresh.cluster, fresh.me, fresh.database, fresh.peers
            self.loaded = fresh.loaded
        self.forget_looks()

    def forget_looks(self) -> None:
        """Discard kept facts, so that the next call collects new ones."""
        self._looks.forget()
        seen = self._pgpool
        if seen is not None:
            seen.until = 0.0

    def look(self) -> NodeFacts:
        """Return the facts of this node, at most 0.3 s old.

        Concurrent callers share them. If collecting them takes more than 2.2 s, as on a busy machine, the node is
        reachable, but its server counts as one that does not answer. Raises OperationError if facts have never been
        collected within that time.
        """
        try:
            found = self._looks.get()
        except TimeoutError as error:
            if self._last is None:
                hint = "a disk or a program hangs: dmesg; ps -eo stat,pid,args | grep ^D"
                raise OperationError(f"{self.me.name} cannot look at itself: {error}", hint=hint) from error
            return self._busy(self._last)
        self._last, self._slow_since = found, 0.0
        return found

    def _busy(self, last: NodeFacts) -> NodeFacts:
        """Return the last facts with the present record. The state of the server is unknown."""
        now, record = time.monotonic(), self.record
        self._slow_since = self._slow_since or now
        state = last.postgresql
        if state in (Postgresql.UP, Postgresql.STARTING):
            state = Postgresql.HANGING if now - self._slow_since > HANGING_SECONDS else Postgresql.STARTING
        return dataclasses.replace(
            last, postgresql=state, streaming=False, promoting=self.promoting, half_copied=bool(record.copying),
            term=record.term, led=record.led, restart=record.restart, apart=record.apart, held=record.held,
            standbys_came=record.standbys_came, excuse=record.excuse,
        )  # fmt: skip

    def _looked(self) -> NodeFacts:
        record = self.record
        facts = NodeFacts(
            self.me.name,
            term=record.term,
            led=record.led,
            restart=record.restart,
            apart=record.apart,
            file=self.cluster.fingerprint,
            applied=self.loaded in ("", paths.laid_file()),
            half_copied=bool(record.copying),
            promoting=self.promoting,
            held=record.held,
            users=Users.load(paths.USERS).serial,
            key=paths.laid_fingerprint(),
            virtual_ip=pgpool.has_address(self.cluster.virtual_ip),
            pgpool=self._looked_at_pgpool(),
            archive=self._looked_at_archive(),
            standbys_came=record.standbys_came,
            excuse=record.excuse,
        )
        if self.database is not None:
            names = self.cluster.standby_names(came=record.standbys_came, dropped=record.dropped)
            facts = self.database.look(facts, self.cluster, names if self.cluster.names_standbys else None)
        member = record.system is not None and facts.system in (None, record.system)
        return dataclasses.replace(facts, member=member)

    def _looked_at_archive(self) -> Usage | None:
        if not self.cluster.archives(self.me):
            return None
        try:
            return self._archive.get()
        except TimeoutError:  # its disk hangs, which must not delay the other facts
            return None

    def _looked_at_pgpool(self) -> PgpoolFacts | None:
        if Service.PGPOOL not in self.me.runs:
            return None
        if (self._pgpool is None or self._pgpool.until < time.monotonic()) and self._asking is None:
            self._asking = threading.Thread(target=self._ask_pgpool, daemon=True)
            self._awaited = time.monotonic() + _PGPOOL_WAIT
            self._asking.start()
        asking = self._asking
        if asking is not None and not (self.pgpool_busy or self.silent):  # it would query a silent host, too, and wait
            asking.join(max(0.0, self._awaited - time.monotonic()))
        return self._pgpool.value if self._pgpool is not None else None

    def _ask_pgpool(self) -> None:
        """Query pgpool-II. During a failover it may not answer, and its last answer stays in use."""
        try:
            self._pgpool = _Seen(pgpool.look(self.cluster), time.monotonic() + _PGPOOL_KEPT)
        finally:
            self._asking = None

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
        at the end, for example after this program was suspended, are dropped: that node counts as unreachable.
        """
        if fresh:
            self.forget_looks()
        self._looks.prepare()
        found = self._ask_for_looks(self.peers.peers, fresh=fresh)
        mine = self.look()
        old = [name for name, seen in found.items() if seen.age > _OLD]
        found |= self._ask_for_looks(old, fresh=fresh)
        writable = [name for name, seen in found.items() if seen.facts.writable]
        found |= self._ask_for_looks(writable, fresh=True)
        if mine.writable:
            self.forget_looks()
            mine = self.look()
        facts = {name: seen.facts for name, seen in found.items() if seen.age < LOOK_SECONDS}
        return ClusterFacts({self.me.name: mine, **facts})

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
        raise OperationError(f"PostgreSQL: {reason}", hint="its log (pg_lsclusters names it) has the rest") from error
