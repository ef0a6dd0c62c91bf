"""Define the facts about every node, which are the input of `decide`, as data.

An unknown fact is None; no fact is a guess. Facts have no times: the code that collects them decides how long they are
valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ...definition.cluster import Cluster
from ...ground.usage import Usage
from .diverged_report import DivergedReport
from .excuse import NO_EXCUSE, Excuse
from .pause import Pause

_PAGE_BYTES = 8192
_PAGE_HEADER_BYTES = 24


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """A position in the write-ahead log, in bytes."""

    bytes: int

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `0/3000060`, as PostgreSQL writes pg_lsn; raises ValueError."""
        if not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text):
            raise ValueError(f"no WAL position: {text!r}")
        high, low = text.split("/")
        return cls((int(high, 16) << 32) + int(low, 16))

    def after_record(self, length: int) -> Lsn:
        """Return the end of a record that begins here, as a standby's pg_last_wal_receive_lsn() reports it.

        Records are aligned to 8 bytes. If a record continues on another page, it includes that page's header (24 bytes;
        src/include/access/xlog_internal.h). `length` must be less than a page.
        """
        size = -(-length // 8) * 8
        return Lsn(self.bytes + size + (_PAGE_HEADER_BYTES if size > _PAGE_BYTES - self.bytes % _PAGE_BYTES else 0))

    def __str__(self) -> str:
        return f"{self.bytes >> 32:X}/{self.bytes & 0xFFFFFFFF:X}"


class Postgresql(StrEnum):
    """State of a node's PostgreSQL server."""

    ABSENT = "absent"
    """No data directory, or an empty one."""
    DOWN = "down"
    STOPPED = "stopped"
    """Down because an administrator stopped the unit and has not started it since."""
    STARTING = "starting"
    """The unit is starting, as in a restart, or the server has not answered for a moment."""
    HANGING = "hanging"
    """It runs, but has not answered for long, as when its disk hangs. It may accept writes again at any time."""
    UP = "up"


class BackendState(StrEnum):
    """The state of a backend in a pgpool-II."""

    UP = "up"
    DOWN = "down"
    UNUSED = "unused"


class WatchdogState(StrEnum):
    """The state of a pgpool-II in its watchdog; ALONE if it has no watchdog."""

    ALONE = "alone"
    LEADER = "leader"
    STANDBY = "standby"
    OTHER = "other"


LEADING = (WatchdogState.ALONE, WatchdogState.LEADER)
"""The states of a pgpool-II that leads."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A line of a timeline history file: `timeline` ended at `lsn`."""

    timeline: int
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Origin:
    """The term in which a primary began `timeline`. Two promotions may give the same number to different timelines."""

    timeline: int
    term: int


@dataclass(frozen=True, slots=True)
class PgpoolFacts:
    """A running pgpool-II: its state in the watchdog, and the state that it assigns to each database node, by name."""

    watchdog: WatchdogState
    quorum: bool
    backends: Mapping[str, BackendState]
    primary: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A pgpool-II's state in the watchdog. `serves`: it accepts clients; `standbys`: its standbys in the watchdog."""

    serves: bool
    state: WatchdogState
    standbys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The facts of one node.

    `member`: it was founded or cloned as a node of this cluster, and still has the same system identifier.
    `term`: the number of the latest promotion that it knows. `led`: the term in which it became the primary, 0 if
    never; the node that founds the cluster leads in term 1. A promotion takes the next term and sends it to all
    reachable nodes, so a primary learns that it was replaced even if its successor is unreachable.
    `restart`: if every node is a primary, the first of the terms that ended because all servers stopped, and not
    because a node missed a write; 0 if none. If a node that led in that term or a later one is down, it is rebuilt
    automatically.
    `apart`: its pgpool-II continued without other nodes in service while too few nodes answered to begin a term.
    `databases`: the names of databases with data: those that neither initdb nor this package created, and postgres if
    it has tables; None if they could not be read.
    `standby_signal`: standby.signal is in the data directory.
    `position`: the end of the WAL that it has written or received; None after a crash, when only a replay finds it.
    `replayed`: the position up to which a standby has replayed WAL. `history`: the timelines before its present one.
    `origins`: the origins of its timelines, as far as it knows them.
    `follows`: the node that its primary_conninfo names.
    `slots`: its physical replication slots. `half_copied`: a clone or rewind began and has not ended.
    `promoting`: a failover is about to make it the primary, or a recovery to bring it into service.
    `held`: an administrator keeps clients off it.
    `virtual_ip`: it has the cluster's virtual address. `users`: the number of the latest change to the users that it
    knows. `key`: fingerprint of the cluster key with which its configuration was written.
    `file`: fingerprint of its cluster.yml; "" for a node whose package does not report it yet.
    `applied`: its configuration was written from the cluster.yml that its agent uses.
    `own_database`: its server has the database of the cluster's own roles, and they can log in to it.
    `archive`: how full its WAL archive is; None if it has none, as in streaming replication.
    `streaming`: it receives WAL from its primary. `stalled`: why a standby does not replay received WAL; "" if it does.
    `settings`: the running values of the parameters that a standby must match (matching.py). `needs`: those of them
    that are too low for the WAL that it has to replay, with the values that are needed.
    `standbys_came`: it knows that as many standbys as `synchronous` requires have connected once. `laid`: its server
    runs with the synchronous_standby_names that follow from that; True if they could not be read. `excuse`: the latest
    excuse that it has recorded. `pause`: the latest pause, or end of one, that it has recorded; None if its package is
    older than pauses.
    `beats`: its agent exchanges heartbeats; False for a node whose package is older than them.
    `silent`: the nodes of which it has no sign of life: their links are lost, and their servers do not answer.
    `loss`: the latest term known to it in which an administrator accepted the loss of other nodes' commits, 0 if none.
    `diverged`: the records of WAL that only this node had (diverged.py), the oldest first.
    """

    node: str
    reachable: bool = True
    postgresql: Postgresql = Postgresql.DOWN
    member: bool = False
    term: int = 0
    led: int = 0
    restart: int = 0
    apart: bool = False
    system: int | None = None
    databases: tuple[str, ...] | None = None
    in_recovery: bool = False
    standby_signal: bool = False
    timeline: int | None = None
    position: Lsn | None = None
    replayed: Lsn | None = None
    history: tuple[Switch, ...] = ()
    follows: str | None = None
    streaming: bool = False
    slots: frozenset[str] = frozenset()
    half_copied: bool = False
    promoting: bool = False
    pgpool: PgpoolFacts | None = None
    held: bool = False
    virtual_ip: bool = False
    users: int = 0
    key: str = ""
    archive: Usage | None = None
    stalled: str = ""
    settings: Mapping[str, int] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)
    file: str = ""
    applied: bool = True
    standbys_came: bool = False
    laid: bool = True
    excuse: Excuse = NO_EXCUSE
    own_database: bool = False
    beats: bool = False
    silent: frozenset[str] = frozenset()
    loss: int = 0
    diverged: tuple[DivergedReport, ...] = ()
    pause: Pause | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def up(self) -> bool:
        """Whether the node is reachable and its PostgreSQL answers."""
        return self.reachable and self.postgresql is Postgresql.UP

    @property
    def writable(self) -> bool:
        """Whether its PostgreSQL answers and accepts writes."""
        return self.up and not self.in_recovery

    @property
    def standby(self) -> bool:
        """Whether it is a running standby."""
        return self.up and self.in_recovery


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """The facts of all nodes as one node collected them. A node that was not asked or did not answer is unreachable."""

    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)

    def of(self, name: str) -> NodeFacts:
        """Return the facts of a node; without facts, it is unreachable."""
        return self.nodes.get(name) or NodeFacts(name, reachable=False)

    @property
    def excuse(self) -> Excuse:
        """The latest excuse that a reachable node has recorded."""
        found = (one.excuse for one in self.nodes.values() if one.reachable)
        return max(found, key=lambda excuse: excuse.place, default=NO_EXCUSE)

    def databases(self, cluster: Cluster) -> tuple[NodeFacts, ...]:
        """Return the reachable database nodes in the cluster's order."""
        found = (self.of(node.name) for node in cluster.databases)
        return tuple(facts for facts in found if facts.reachable)

    def members(self, cluster: Cluster) -> tuple[NodeFacts, ...]:
        """Return the reachable database nodes that belong to the cluster, in its order."""
        return tuple(facts for facts in self.databases(cluster) if facts.member)

    def same_key(self, cluster: Cluster, key: str) -> bool:
        """Return whether more than half of all nodes answer and have the cluster key with this fingerprint."""
        found = [self.of(node.name) for node in cluster.nodes]
        return sum(facts.reachable and facts.key == key for facts in found) >= cluster.majority

    def majority(self, cluster: Cluster) -> bool:
        """Return whether more than half of all nodes answer, so that no other part of the cluster has a majority.

        A node with another cluster.yml does not count: it may know other nodes, in another order.
        """
        differing = self.differing(cluster)
        found = [self.of(node.name) for node in cluster.nodes]
        return sum(one.reachable and one.node not in differing for one in found) >= cluster.majority

    def differing(self, cluster: Cluster) -> tuple[str, ...]:
        """Return the reachable nodes whose cluster.yml differs from `cluster`."""
        found = [self.of(node.name) for node in cluster.nodes]
        return tuple(one.node for one in found if one.reachable and one.file not in ("", cluster.fingerprint))


def contains(source: NodeFacts, target: NodeFacts) -> bool | None:
    """Return whether the history of `source` contains all WAL of `target`; None if that is unknown.

    If it does, `target` can follow `source` without a copy. If not, `target` has diverged and needs pg_rewind or a new
    clone. The facts of a running source must be later than those of the target, or the target may seem ahead.
    """
    if None in (source.timeline, source.position, target.timeline, target.position):
        return None
    if source.system is None or source.system != target.system:
        return False
    if source.timeline == target.timeline and source.history != target.history:
        return False
    end = source.position if source.timeline == target.timeline else _end_of(source, target.timeline)
    if end is None or target.position is None:
        return False
    return target.position <= end and same_timeline(source, target.timeline or 0, target.origins)


def same_timeline(source: NodeFacts, timeline: int, origins: Iterable[Origin]) -> bool | None:
    """Return whether the source's timeline of this number is that of a node with these origins; None if unknown.

    It is unknown for a moment after the source's promotion. With a source of an older package, which records no origins
    and knows no pause, the number decides.
    """
    theirs, mine = _terms(source.origins), _terms(origins)
    if branch(source.origins, origins) in range(1, timeline + 1):
        return False
    records = bool(theirs) or source.pause is not None
    return None if records and timeline in mine and timeline == source.timeline not in theirs else True


def branch(one: Iterable[Origin], other: Iterable[Origin]) -> int | None:
    """Return the first timeline that began in different terms on two nodes; None if none is known."""
    mine = _terms(one)
    return min((number for number, term in _terms(other).items() if mine.get(number, term) != term), default=None)


def _terms(origins: Iterable[Origin]) -> dict[int, int]:
    return {origin.timeline: origin.term for origin in origins}


def _end_of(source: NodeFacts, timeline: int | None) -> Lsn | None:
    """Return the end of `timeline` in the history of `source`; None if `timeline` is not part of that history."""
    return next((switch.lsn for switch in source.history if switch.timeline == timeline), None)
