"""One node at work: what it is part of, its server, its memory, and the others."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from . import archive, paths, pgpool, wire
from .cluster import Cluster, Node, Service
from .errors import OperationError
from .facts import ClusterFacts, NodeFacts, PgpoolFacts
from .peers import Peers
from .postgresql import Database
from .record import Record
from .users import Users

T = TypeVar("T")
Json = dict[str, Any]
LOOK_SECONDS = 2.5
"""How long another node may take to answer before it counts as out of reach."""
_KEPT = 0.3
_PGPOOL_KEPT = 1.0
_ARCHIVE_KEPT = 10.0
_PGPOOL_WAIT = 0.5


@dataclass(slots=True)
class _Seen(Generic[T]):
    """Something that was looked at, good for a moment."""

    value: T
    until: float


def _nobody(request: Json, _: Callable[[str], None]) -> Json:
    raise OperationError(f"nobody answers {request.get('do')!r} here", hint="systemctl restart pgpool2-cluster")


def log(text: str) -> None:
    """Write a line to the journal."""
    print(text, flush=True)


@dataclass(slots=True)
class Here:
    """One node of a running cluster, as the program on it sees it; used by several threads."""

    cluster: Cluster
    me: Node
    database: Database | None
    peers: Peers
    record: Record
    promoting: bool = False
    note: str = ""
    """What it waits for or refuses to do, with its hint; "" if nothing."""
    starting: bool = False
    """It is starting its PostgreSQL itself, so the unit may go on."""
    answer: Callable[[Json, Callable[[str], None]], Json] = field(default=_nobody, repr=False)
    """Answers this node's own requests as it would another node's."""
    recovering: threading.Lock = field(default_factory=threading.Lock, repr=False)
    telling: Callable[[str], None] | None = field(default=None, repr=False)
    """Who asked for the recovery that is going on, and wants to hear of it."""
    awaited: float = 0.0
    """Until when, by the monotonic clock, the next stage of a recovery must have come here; 0 while none is awaited."""
    failure: str = ""
    """Why the last stage of a recovery came to nothing."""
    taken_up: str = ""
    """The node that a second stage has just made a primary."""
    draining: float = 0.0
    """When, by the monotonic clock, sessions were asked to end for a second stage; 0 while none waits for them."""
    archive_needed: str = ""
    """The first WAL file that a running recovery needs of this node's archive; "" if none runs."""
    silent: frozenset[str] = frozenset()
    """The nodes that send no packet any more, while a recovery goes on (vigil.py)."""
    pgpool_busy: bool = False
    """It waits for its failover_command, and answers nobody: its last word is taken, and no other waited for."""
    promotion: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _look: _Seen[NodeFacts] | None = field(default=None, repr=False)
    _pgpool: _Seen[PgpoolFacts | None] | None = field(default=None, repr=False)
    _archive: _Seen[archive.Usage | None] | None = field(default=None, repr=False)
    _asking: threading.Thread | None = field(default=None, repr=False)
    _awaited: float = 0.0
    """Until when looks wait for it."""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def server(self) -> Database:
        """The node's database server; raises OperationError on a node without one."""
        if self.database is None:
            raise OperationError(f"{self.me.name} runs no PostgreSQL", hint="cluster.yml says which nodes do")
        return self.database

    def remember(self, **changes: object) -> None:
        """Change the record, on disk first."""
        with self._lock:
            changed = self.record.with_changes(**changes)
            if changed != self.record:
                changed.save(paths.RECORD)
                self.record = changed
            self._look = None

    def note_term(self, term: int, **changes: object) -> bool:
        """Write down a new term, with other `changes` of the record in the same write.

        False if this node knows the term, or a later one, already: of two nodes that tell the same one, one may.
        """
        with self._lock:
            if term <= self.record.term:
                return False
            self.remember(term=term, **changes)
            return True

    def renew(self, fresh: Here) -> None:
        """Go on with cluster.yml as `fresh` has read it; what is under way in other threads goes on."""
        self.peers.close()
        with self._lock:
            self.cluster, self.me, self.database, self.peers = fresh.cluster, fresh.me, fresh.database, fresh.peers
        self.forget_looks()

    def forget_looks(self) -> None:
        """The next look is a new one."""
        self._look = None
        if self._pgpool is not None:
            self._pgpool.until = 0.0

    def look(self) -> NodeFacts:
        """Return the facts of this node, at most a moment old."""
        with self._lock:
            if self._look is None or self._look.until < time.monotonic():
                self._look = _Seen(self._looked(), time.monotonic() + _KEPT)
            return self._look.value

    def _looked(self) -> NodeFacts:
        record = self.record
        facts = NodeFacts(
            self.me.name,
            term=record.term,
            led=record.led,
            restart=record.restart,
            apart=record.apart,
            half_copied=bool(record.copying),
            promoting=self.promoting,
            held=record.held,
            users=Users.load(paths.USERS).serial,
            key=paths.laid_fingerprint(),
            virtual_ip=pgpool.has_address(self.cluster.virtual_ip),
            pgpool=self._looked_at_pgpool(),
            archive=self._looked_at_archive(),
        )
        if self.database is not None:
            facts = self.database.look(facts, self.cluster)
        member = record.system is not None and facts.system in (None, record.system)
        return dataclasses.replace(facts, member=member)

    def _looked_at_archive(self) -> archive.Usage | None:
        if not self.cluster.archives(self.me):
            return None
        if self._archive is None or self._archive.until < time.monotonic():
            self._archive = _Seen(archive.usage(paths.ARCHIVE), time.monotonic() + _ARCHIVE_KEPT)
        return self._archive.value

    def _looked_at_pgpool(self) -> PgpoolFacts | None:
        if Service.PGPOOL not in self.me.runs:
            return None
        if (self._pgpool is None or self._pgpool.until < time.monotonic()) and self._asking is None:
            self._asking = threading.Thread(target=self._ask_pgpool, daemon=True)
            self._awaited = time.monotonic() + _PGPOOL_WAIT
            self._asking.start()
        asking = self._asking
        if asking is not None and not (self.pgpool_busy or self.silent):  # it asks a silent host, too, and waits
            asking.join(max(0.0, self._awaited - time.monotonic()))
        return self._pgpool.value if self._pgpool is not None else None

    def _ask_pgpool(self) -> None:
        """Ask pgpool-II, which may hold its answer back while it fails over; meanwhile its last one is good."""
        try:
            self._pgpool = _Seen(pgpool.look(self.cluster), time.monotonic() + _PGPOOL_KEPT)
        finally:
            self._asking = None

    def on(self, name: str, request: Json, *, seconds: float) -> Json:
        """Have a node, this one or another, do what is asked for; raises ClusterError. `seconds`: without a word."""
        if name == self.me.name:
            return self.answer(request, log)
        return self.peers.ask(name, request, seconds=seconds)

    def look_at_all(self, *, fresh: bool = False) -> ClusterFacts:
        """Return the facts of all nodes, `fresh` or at most a moment old.

        Writable ones are looked at last, so that no standby seems ahead of them.
        """
        if fresh:
            self.forget_looks()
        answers = self.peers.ask_all({"do": "look", "fresh": fresh}, seconds=LOOK_SECONDS)
        found = {self.me.name: self.look()}
        for name, answer in answers.items():
            with contextlib.suppress(ValueError):
                found[name] = wire.decode(answer)
        writable = [name for name, facts in found.items() if facts.writable]
        for name, answer in self.peers.ask_some(writable, {"do": "look", "fresh": True}, seconds=LOOK_SECONDS).items():
            with contextlib.suppress(ValueError):
                found[name] = wire.decode(answer)
        if self.me.name in writable:
            self.forget_looks()
            found[self.me.name] = self.look()
        return ClusterFacts(found)


def sql_errors(work: Callable[[], T]) -> T:
    """Run `work`; what PostgreSQL says against it becomes an OperationError."""
    try:
        return work()
    except psycopg2.Error as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise OperationError(f"PostgreSQL: {reason}", hint="its log in /var/log/postgresql has the rest") from error
