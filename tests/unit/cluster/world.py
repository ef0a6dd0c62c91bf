"""A cluster in a test's memory: hosts that can lose power, servers, records, pgpool-IIs, and the package's own agents.

The agents run the package's own code, from `decide` and `act` to the recovery in two stages. The model replaces what
they act on: systemd, PostgreSQL's data, pgpool-II and its watchdog, and the network. `hands` installs the stand-ins.
Every effect that survives a power cut is a `tick`, and a power cut can come before any tick.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from pgpool_cluster.agent import agent, answers
from pgpool_cluster.agent.answers import Answers
from pgpool_cluster.copying import copy_source, copying
from pgpool_cluster.decision import standstill
from pgpool_cluster.decision.actions import Action, Attach, AwaitRecovery, Refuse, Wait, said
from pgpool_cluster.decision.decide import confirmed, decide
from pgpool_cluster.decision.facts.facts import (
    BackendState,
    ClusterFacts,
    Lsn,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    Switch,
    WatchdogState,
)
from pgpool_cluster.decision.reports.status import healthy
from pgpool_cluster.decision.situation import Policy, in_service, leading_pgpools, rightful_primary
from pgpool_cluster.definition.cluster import Cluster, Mode, Node, Service
from pgpool_cluster.ground import log, paths, waiting
from pgpool_cluster.ground.errors import ClusterError, OperationError, ServerError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node import node, stages
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act, pausing, queueing, restarts, takeover
from pgpool_cluster.operations.succession import cutting, synchrony
from pgpool_cluster.operations.succession.synchrony import Sender, Senders, Synchrony
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.postgresql import postmaster, server_log
from pgpool_cluster.recovery import main_node, sessions, target, two_stages
from pgpool_cluster.transport import lines, protocol
from pgpool_cluster.transport.lines import Asked, Line
from pgpool_cluster.transport.protocol import (
    Done,
    FirstStageRequest,
    MayStartRequest,
    Request,
    SecondStageRequest,
    StartRequest,
    SwitchoverRequest,
)

A = TypeVar("A")
QUIET = (Wait, AwaitRecovery, Refuse)
CHECKPOINT = 0
"""The number of a log record that is not a client's write."""
SYSTEM = 7000
UNIT = "postgresql@15-main.service"


class PowerCut(BaseException):
    """The host that runs this code has lost its power; not an Exception, so that the package does not catch it."""


def make_cluster(mode: Mode, count: int, *, witness: bool = False) -> Cluster:
    """Return a cluster with `count` database nodes and cluster.yml's defaults."""
    nodes = [Node(i, f"pg{i + 1}", f"10.0.0.{i + 1}", 5432, 1.0, frozenset(Service)) for i in range(count)]
    if witness:
        nodes.append(Node(count, "w", "10.0.0.9", 5432, 1.0, frozenset({Service.PGPOOL})))
    synchronous = 1 if mode.streams and count > 2 else 0
    return Cluster("main", mode, None, tuple(nodes), (), None, None, synchronous, (), ())


@dataclass(slots=True)
class Data:
    """A data directory. `log` stands for WAL: its records in order, as (timeline, number of the write)."""

    system: int = SYSTEM
    log: tuple[tuple[int, int], ...] = ()
    timeline: int = 1
    history: tuple[Switch, ...] = ()
    standby: bool = False
    follows: str | None = None
    slots: frozenset[str] = frozenset()
    crashed: bool = False
    whole: bool = True

    @property
    def position(self) -> Lsn:
        """The end of the log."""
        return Lsn(1000 + 8 * len(self.log))

    @property
    def ended(self) -> Lsn | None:
        """The position in the control file of a stopped server; for a standby, that of its last checkpoint."""
        if self.crashed:
            return None
        last = max((place for place, (_, number) in enumerate(self.log, 1) if number == CHECKPOINT), default=0)
        return Lsn(1000 + 8 * last) if self.standby else self.position

    @property
    def writes(self) -> set[int]:
        """The clients' writes that it contains."""
        return {number for _, number in self.log if number != CHECKPOINT}

    def checkpoint(self) -> None:
        """Write a record of the server itself."""
        self.log += ((self.timeline, CHECKPOINT),)


@dataclass(slots=True)
class Host:
    """A host with the content of its disk; `here` has what is only in memory."""

    node: Node
    record: Record = field(default_factory=Record)
    data: Data | None = None
    status: dict[str, bool] | None = None
    """pgpool_status: the nodes that were up."""
    view: dict[str, bool] = field(default_factory=dict)
    """The nodes that its pgpool-II believes to be up, in streaming replication, where each has a view of its own."""
    writes_to: str | None = None
    """The node to which its pgpool-II sends writes, in streaming replication."""
    on: bool = True
    up: bool = False
    """PostgreSQL runs."""
    by_hand: bool = False
    """An administrator has stopped it."""
    serve: bool = False
    pool: bool = False
    patient: bool = True
    here: Me | None = None
    synchrony: Synchrony | None = None
    names: str = ""
    """synchronous_standby_names as applied and loaded."""
    applies: bool = True
    """`pgpoolctl apply` succeeds."""
    slow: bool = False
    """Its server receives WAL late."""

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def database(self) -> bool:
        return Service.POSTGRESQL in self.node.runs


class Me(Here):
    """An agent's node that collects facts from the world, and keeps its record there."""

    world: World

    def remember(self, **changes: object) -> None:
        changed = self.record.with_changes(**changes)
        if changed != self.record:
            self.world.tick()
            self.record = self.world.hosts[self.me.name].record = changed

    def look(self) -> NodeFacts:
        return self.world.facts(self.me.name)

    def look_at_all(self, *, fresh: bool = False) -> ClusterFacts:
        del fresh
        found = self.world.seen()
        self.seen.publish(found)
        return found

    def forget_looks(self) -> None:
        pass


@dataclass(slots=True)
class Wires:
    """The connections of one node to all others, in place of `Peers`."""

    world: World
    me: str

    @property
    def peers(self) -> dict[str, Any]:
        return {name: SimpleNamespace(problem="out of reach") for name in self.world.hosts if name != self.me}

    def ask(self, name: str, request: Request[A], **_: object) -> A:
        return self.reach(name, request, self.me)

    def reach(self, name: str, request: Request[A], peer: str = "") -> A:
        """Send a request to an agent as a program on its host: the program behind `peer`'s ssh key, or a local hook."""
        if not self.world.hosts[name].on:
            raise ServerError(f"{name} is out of reach", hint="pgpoolctl status")
        try:
            asked = Asked.parse(lines.request(request)).request()
            return Line.parse(lines.done(self.world.on(name, asked, peer), None)).answer(request, name)
        except PowerCut:
            raise ServerError(f"{name} is out of reach", hint="pgpoolctl status") from None
        finally:
            self.world.need_power()

    def ask_some(self, names: list[str], request: Request[A], **_: object) -> dict[str, A]:
        outcomes = self.outcomes(names, request)
        return {name: found for name, found in outcomes.items() if not isinstance(found, ClusterError)}

    def outcomes(self, names: list[str], request: Request[A], **_: object) -> dict[str, A | ClusterError]:
        found: dict[str, A | ClusterError] = {}
        for name in names:
            try:
                if name != self.me:
                    found[name] = self.ask(name, request)
            except ClusterError as error:
                found[name] = error
        return found

    def ask_all(self, request: Request[A], **_: object) -> dict[str, A]:
        return self.ask_some(list(self.peers), request)

    def drop(self, name: str, reason: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(slots=True)
class Acting:
    """The lock of a program that changes a node; its agent takes no turn meanwhile."""

    world: World
    name: str

    def __enter__(self) -> None:
        self.world.acting.append(self.name)

    def __exit__(self, *_: object) -> None:
        self.world.acting.remove(self.name)


class World:
    """All hosts of a cluster, and the acknowledged writes of clients."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.hosts = {one.name: Host(one) for one in cluster.nodes}
        self.pools: list[str] = []
        """The hosts with a running pgpool-II; the first one leads."""
        self.view: dict[str, bool] = {}
        """The nodes that the pgpool-IIs believe to be up, in the other modes, where a watchdog gives them one view."""
        self.acknowledged: set[int] = set()
        self.waiting: dict[int, str] = {}
        """Writes that are not acknowledged yet, with the primary of the waiting client."""
        self.promised = cluster.synchronous > 0
        """Whether no acknowledged write may be lost; an administrator can accept a loss."""
        self.held = False
        """Clients are waiting for a second stage."""
        self.stack: list[str] = []
        self.acting: list[str] = []
        self.clock = 1000.0
        self.told: dict[str, str] = {}
        """The note of each agent: the reason why it waits, or its failure."""
        self.story: list[str] = []
        self._cut_in: tuple[int, tuple[str, ...]] | None = None
        self._between = False
        self._number = 0

    # Beginnings

    @classmethod
    def fresh(cls, cluster: Cluster) -> World:
        """Servers as their packages create them, the first one with a database."""
        world = cls(cluster)
        for place, host in enumerate(world.hosts.values()):
            host.data = Data(system=SYSTEM + place, log=((1, CHECKPOINT),)) if host.database else None
            world.boot(host.name)
        return world

    @classmethod
    def healthy(cls, cluster: Cluster, primary: int = 0) -> World:
        """A healthy cluster; `primary`: the index of its primary, with streaming."""
        world = cls(cluster)
        names = [one.name for one in cluster.databases]
        first = names[primary % len(names)]
        for host in world.hosts.values():
            if host.database:
                streams = cluster.mode.streams and host.name != first
                host.data = Data(log=((1, CHECKPOINT),), standby=streams, follows=first if streams else None)
                others = frozenset(names) - {host.name}
                host.data.slots = others if cluster.mode.streams and not streams else frozenset()
                host.record = Record(system=SYSTEM, term=1, led=0 if streams else 1,
                                     standbys_came=cluster.synchronous > 0)  # fmt: skip
                host.names = cluster.standby_names(came=host.record.standbys_came)
                host.up = True
            host.serve = True
            world._start_agent(host)
        for host in world.hosts.values():
            world.start_pool(host)
        return world

    def _start_agent(self, host: Host) -> None:
        wires: Any = Wires(self, host.name)
        database: Any = Server(self, host) if host.database else None
        host.here = Me(self.cluster, host.node, database, wires, host.record)
        host.here.world = self
        acting: Any = Acting(self, host.name)
        work = Answers(host.here, acting, lambda: None, list, lambda: None)
        host.here.answer = work.do
        host.synchrony = Synchrony(host.here)

    # Facts

    def facts(self, name: str) -> NodeFacts:
        """The facts of a node as its agent reports them."""
        host, here = self.hosts[name], self.hosts[name].here
        assert here is not None
        record, data = host.record, host.data
        found: dict[str, Any] = {
            "term": record.term, "led": record.led, "restart": record.restart, "apart": record.apart,
            "half_copied": bool(record.copying), "promoting": here.under_way.promoting,
            "held": record.held, "member": record.system is not None, "pgpool": self._pgpool(host),
            "standbys_came": record.standbys_came, "excuse": record.excuse, "loss": record.loss,
            "silent": frozenset(other for other, one in self.hosts.items() if not one.on),
            "pause": record.pause, "origins": record.origins,
        }  # fmt: skip
        if data is None:
            state = Postgresql.ABSENT if host.database else Postgresql.DOWN
            return NodeFacts(name, postgresql=state, **found)
        down = Postgresql.STOPPED if host.by_hand else Postgresql.DOWN
        found |= {
            "postgresql": Postgresql.UP if host.up else down, "system": data.system,
            "member": record.system == data.system, "standby_signal": data.standby, "timeline": data.timeline,
            "position": data.position if host.up else data.ended, "history": data.history,
        }  # fmt: skip
        if host.up:
            databases = ("app",) if record.system == data.system or host.node == self.cluster.databases[0] else ()
            found |= {
                "databases": databases, "in_recovery": data.standby, "follows": data.follows if data.standby else None,
                "streaming": self.streams(host), "slots": data.slots,
                "replayed": data.position if data.standby else None,
                "laid": not self.cluster.mode.streams or host.names == self.names_wanted(host),
            }  # fmt: skip
        return NodeFacts(name, **found)

    def seen(self) -> ClusterFacts:
        """All nodes as any of them sees them; only power is cut here, never the network."""
        return ClusterFacts({name: self.facts(name) for name, host in self.hosts.items() if host.on})

    def _pgpool(self, host: Host) -> PgpoolFacts | None:
        if not host.pool:
            return None
        if not self.cluster.uses_watchdog:
            state = WatchdogState.ALONE
        else:
            state = WatchdogState.LEADER if self.pools[0] == host.name else WatchdogState.STANDBY
        view = host.view if self.cluster.mode.streams else self.view
        beliefs = {name: BackendState.UP if up else BackendState.DOWN for name, up in view.items()}
        return PgpoolFacts(state, self.quorum or not self.cluster.uses_watchdog, beliefs, host.writes_to)

    def users(self, name: str) -> list[str]:
        """The hosts whose pgpool-II sends clients to a node."""
        streams = self.cluster.mode.streams
        return [one for one in self.pools if (self.hosts[one].view if streams else self.view)[name]]

    @property
    def quorum(self) -> bool:
        return 2 * len(self.pools) > len(self.cluster.pgpools)

    @property
    def databases(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.database]

    def streams(self, host: Host) -> bool:
        """Return whether a standby receives from the node that it follows."""
        data, source = host.data, self.hosts.get(host.data.follows or "") if host.data else None
        if not (host.up and data and data.standby and source and source.on and source.up and source.data):
            return False
        fits = source.data.system == data.system and source.data.log[: len(data.log)] == data.log
        return fits and host.node.slot in source.data.slots

    def catch_up(self) -> None:
        """Let all standbys receive all WAL."""
        for _ in self.databases:  # one may follow a standby
            for host in self.databases:
                if host.on and self.streams(host) and not host.slow:
                    source = self.hosts[host.data.follows].data  # type: ignore[union-attr, index]
                    assert host.data is not None
                    assert source is not None
                    host.data.log, host.data.timeline, host.data.history = source.log, source.timeline, source.history
        if self.waiting:
            self._acknowledge()

    # Synchronous replication

    def names_wanted(self, host: Host) -> str:
        return self.cluster.standby_names(came=host.record.standbys_came, dropped=host.record.dropped)

    def apply(self, host: Host) -> None:
        self.tick()
        if not host.applies:
            raise OperationError("apply: cluster.yml:3: a tab", hint="take it out")
        host.names = self.names_wanted(host)

    def senders(self, here: Here) -> Senders:
        """The content of pg_stat_replication."""
        host = self.hosts[here.me.name]
        if not host.up or host.data is None or host.data.standby:
            raise OperationError("PostgreSQL: it is no primary", hint="its log")
        found = {one.name: Sender(one.data.position if one.data else None, f'"{one.name}"' in host.names)
                 for one in self._standbys_of(host)}  # fmt: skip
        return Senders(host.data.position, found)

    def _standbys_of(self, host: Host) -> list[Host]:
        return [one for one in self.databases
                if one.on and self.streams(one) and one.data and one.data.follows == host.name]  # fmt: skip

    def _acknowledge(self) -> None:
        """Acknowledge the commits that are on the required number of listed standbys."""
        for number, name in list(self.waiting.items()):
            host = self.hosts[name]
            if not host.up or host.data is None or host.data.standby or number not in host.data.writes:
                del self.waiting[number]  # the client's connection is gone
                continue
            listed = [one for one in self._standbys_of(host) if f'"{one.name}"' in host.names]
            got = sum(one.data is not None and number in one.data.writes for one in listed)
            if not host.names or got >= self.cluster.synchronous:
                self.acknowledged.add(number)
                del self.waiting[number]

    # Power

    def tick(self) -> None:
        """Mark the moment before an effect that survives a power cut."""
        if self._cut_in is not None:
            left, names = self._cut_in
            self._cut_in = (left - 1, names) if left else None
            if not left:
                self.cut(names)
        self.need_power()

    def need_power(self) -> None:
        """Raise PowerCut if the host that runs this code is off; if only the requesting host is off, work continues."""
        if self.stack and not self.hosts[self.stack[-1]].on:
            raise PowerCut

    def cut(self, names: Iterable[str]) -> None:
        """Cut the power of hosts."""
        for name in names:
            host = self.hosts[name]
            if host.on:
                if host.up and host.data:
                    host.data.crashed = True
                self._off(host)

    def cut_during(self, names: Iterable[str], effects: int, work: Callable[[], object]) -> None:
        """Cut the power of hosts after this number of effects of `work`, or after `work` if it has fewer."""
        self._cut_in = (effects, tuple(names))
        with suppress(PowerCut, ClusterError):
            work()
        if self._cut_in is not None:
            self._cut_in = None
            self.cut(names)

    def shut_down(self, names: Iterable[str]) -> None:
        """Shut down hosts cleanly in parallel: each server's last checkpoint reaches its standbys."""
        self.catch_up()
        off = [self.hosts[name] for name in names if self.hosts[name].on]
        for host in off:
            self._end_server(host)
        for host in off:
            self._off(host)

    def _off(self, host: Host) -> None:
        host.on = host.up = host.serve = host.by_hand = False
        self._hang_up(host)
        self._end_pool(host)
        host.here = host.synchrony = None

    def _hang_up(self, host: Host) -> None:
        """End the sessions of clients."""
        self.waiting = {number: name for number, name in self.waiting.items() if name != host.name}

    def _end_server(self, host: Host) -> None:
        if host.up and host.data and not host.data.standby:
            self._hang_up(host)
            host.data.checkpoint()
            self.catch_up()
        host.up = False

    def _end_pool(self, host: Host) -> None:
        host.pool = False
        if host.name in self.pools:
            self.pools.remove(host.name)

    def boot(self, name: str, *, early: bool = False) -> None:
        """Power on a host; `early`: its agent answers before systemd starts PostgreSQL."""
        host = self.hosts[name]
        if host.on and host.here is not None:
            return
        host.on = host.patient = True
        self._start_agent(host)
        if host.database and host.data is not None and (early or host.record.system is None):
            self.start_unit(name)

    def start_unit(self, name: str) -> None:
        """`systemctl start postgresql`, as at boot: the agent is asked first."""
        host = self.hosts[name]
        host.by_hand = False
        with suppress(ClusterError, PowerCut):
            if not host.up and self.on(name, MayStartRequest("15-main")).go:
                self.start_server(host)

    def crash(self, name: str) -> None:
        """Kill a node's PostgreSQL."""
        host = self.hosts[name]
        if host.up and host.data:
            host.up, host.data.crashed = False, True
            self._hang_up(host)

    def kill(self, name: str) -> bool:
        """Kill a node's PostgreSQL, as its own agent does."""
        self.tick()
        self.crash(name)
        return True

    # PostgreSQL

    def start_server(self, host: Host) -> None:
        self.tick()
        data = host.data
        if data is None or not data.whole:
            raise OperationError("PostgreSQL does not start", hint="its log")
        host.up, host.by_hand = True, False
        if data.crashed and not data.standby:
            data.checkpoint()
        data.crashed = False
        self.catch_up()

    def stop_server(self, host: Host) -> None:
        self.tick()
        self._end_server(host)
        host.by_hand = False

    def end_recovery(self, host: Host) -> None:
        self.tick()
        data = host.data
        assert data is not None
        data.history += (Switch(data.timeline, data.position),)
        data.timeline += 1
        data.standby, data.follows = False, None
        data.checkpoint()
        missing = self.acknowledged - data.writes
        assert not (self.promised and missing), f"promoted without {missing}\n{self.shown()}"

    def copy(self, here: Here, source: str, *, member: bool, rewind: bool = False) -> None:
        """pg_basebackup or pg_rewind, with the steps of copying.py around it, in the same order."""
        host, there = self.hosts[here.me.name], self.hosts[source]
        if not (there.on and there.up and there.data):
            raise OperationError(f"cannot copy from {source}", hint="psql")
        there.data.slots |= {host.node.slot}
        if host.up:
            self.stop_server(host)
        here.remember(copying=source)
        self.tick()
        host.data = replace(host.data, whole=False) if rewind and host.data else None
        self.pause()
        self.tick()
        if not (there.on and there.up):
            raise OperationError("pg_basebackup: the connection was lost", hint="run the same command to start again")
        host.data = replace(there.data, standby=True, follows=source, slots=frozenset(), crashed=False)
        self.start_server(host)
        here.remember(system=host.data.system, copying="" if member else source)
        self.pause()

    def query(self, here: Here, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Answer the queries of act.py and two_stages.py to a node's server."""
        host = self.hosts[here.me.name]
        data = host.data
        if not host.up or data is None:
            raise OperationError("PostgreSQL: it does not answer", hint="its log")
        if "pg_promote" in sql:
            self.end_recovery(host)
        elif found := re.search(r"primary_conninfo = 'host=(\S+)", sql):
            self.tick()
            data.follows = next(one.name for one in self.cluster.databases if one.address == found[1])
        elif "primary_conninfo = ''" in sql:
            self.tick()
            data.follows = None
        elif "backend_type = 'walreceiver'" in sql:
            return [(data.follows is None, 0)]
        elif "pg_create_physical" in sql:
            data.slots |= {str(values[0])}
        elif "pg_last_wal_replay_lsn" in sql:
            self.catch_up()
            return [("0/0", self.streams(host))]
        answer = {"pg_is_in_recovery": data.standby, "system_identifier": data.system, "pg_promote": True}
        return [(next((value for words, value in answer.items() if words in sql), "0/0"),)]

    # pgpool-II

    def start_pool(self, host: Host) -> None:
        self.tick()
        if host.pool:
            return
        if self.cluster.mode.streams:
            host.view = self._kept(host)
            host.writes_to = self._search(host)
        elif not self.pools:
            self.view = self._kept(host)
        host.pool = True
        self.pools.append(host.name)

    def _kept(self, host: Host) -> dict[str, bool]:
        """The view that pgpool-II has kept in pgpool_status."""
        names = [one.name for one in self.cluster.databases]
        view = {name: (host.status or {}).get(name, True) for name in names}
        return view if any(view.values()) else dict.fromkeys(names, True)  # pgpool-II treats that as a broken file

    def _search(self, host: Host) -> str | None:
        """The primary that a pgpool-II finds by itself among the nodes that it believes to be up."""
        found = (self.hosts[name] for name, up in host.view.items() if up)
        return next((one.name for one in found if one.up and one.data and not one.data.standby), None)

    def _change(self, name: str, *, up: bool) -> None:
        """Change the view of this host's pgpool-II. Only if it detaches a standby does it not search for a primary."""
        host = self.hosts[self.stack[-1]]
        self.tick()
        host.view[name] = up
        host.status = dict(host.view)
        if up or name == host.writes_to:
            host.writes_to = self._search(host)

    def redirect(self, _: Cluster, one: Node) -> None:
        """pcp_promote_node, without a promotion: pgpool-II detaches all other nodes."""
        self._pcp()
        host = self.hosts[self.stack[-1]]
        if not host.view[one.name]:
            raise OperationError("pcp_promote_node: ERROR: the node is down", hint="")
        if host.writes_to != one.name:
            self.tick()
            host.writes_to, host.view = one.name, {name: name == one.name for name in host.view}
            host.status = dict(host.view)

    def write_status(self, _: Cluster, up: Iterable[str]) -> None:
        up = list(up)
        self.hosts[self.stack[-1]].status = {one.name: one.name in up for one in self.cluster.databases}

    def believe(self, name: str, *, up: bool) -> None:
        """Let the pgpool-IIs of a watchdog attach a node or give it up; then the leader calls its failover_command."""
        leader = self.hosts[self.pools[0]]
        try:
            with self.within(leader.name):
                self.tick()
                self.view[name] = up
                leader.status = dict(self.view)
                if not up:
                    assert leader.here is not None
                    takeover.fail_over(leader.here, self.cluster.named(name), lambda _: None)
        except ClusterError:  # the program exited with a status other than 0, which changes nothing
            pass
        except PowerCut:
            self.need_power()
            raise OperationError("pcp: the leader is lost", hint="") from None

    def check(self, name: str) -> None:
        """pgpool-II's health check of a node, which gives up an unreachable one; with streaming, there is none."""
        host = self.hosts[name]
        checks = self.pools and not self.cluster.mode.streams
        if checks and self.view[name] and not (host.on and host.up):
            with suppress(PowerCut, OperationError):
                self.believe(name, up=False)

    def attach(self, _: Cluster, one: Node, *, wait: bool = False) -> None:
        del wait
        self._pcp()
        if self.cluster.mode.streams:
            if not self.hosts[self.stack[-1]].view[one.name]:
                self._change(one.name, up=True)
        elif not self.view[one.name]:
            self.believe(one.name, up=True)

    def detach(self, _: Cluster, one: Node) -> None:
        self._pcp()
        if self.stack[-1] not in self.users(one.name):
            raise OperationError(f"pcp_detach_node: {pgpool.DOWN_ALREADY}", hint="")
        if self.cluster.mode.streams:
            self._change(one.name, up=False)
        else:
            self.believe(one.name, up=False)

    def _pcp(self) -> None:
        if not self.hosts[self.stack[-1]].pool:
            raise OperationError("pcp: connection refused", hint="")

    def pcp(self, name: str, *words: str, seconds: float = 0) -> str:
        """pcp_recovery_node: both stages on pgpool-II's main node, the first that it believes to be up."""
        del seconds
        self._pcp()
        assert name == "pcp_recovery_node"
        target = self.cluster.databases[int(words[1])]
        main = next((one for one, up in self.view.items() if up), None)
        if self.view[target.name] or main is None or not self.hosts[main].up:
            raise OperationError("pcp_recovery_node: ERROR: node is alive, or no main node", hint="")
        here = self.stack[-1]

        def on_main(request: Request[Done]) -> None:
            self.on(main, request) if main == here else Wires(self, here).reach(main, request)

        try:
            on_main(FirstStageRequest(int(words[1])))
            self.held = True
            on_main(SecondStageRequest(int(words[1])))
            on_main(StartRequest(target.address))
            self.tick()
            if not self.hosts[target.name].up:
                raise OperationError("pcp_recovery_node: it does not come up", hint="")
            self.believe(target.name, up=True)
        except ClusterError as error:
            raise OperationError(f"pcp_recovery_node: {error.message}", hint="") from error
        finally:
            self.held = False
        return ""

    # Clients

    def write(self, reached: Callable[[str], bool] = lambda _: True) -> None:
        """Let a client write; `reached`: the standbys that receive the write at once."""
        if not self.pools or self.held:
            return
        self._number += 1
        if self.cluster.mode.streams:
            self._write_to_primary(self._number, reached)
            return
        for name in [name for name, up in self.view.items() if up]:
            if self.view[name] and not self.hosts[name].up:
                self.check(name)
        backends = [name for name, up in self.view.items() if up and self.hosts[name].up]
        for name in backends:
            self._append(self.hosts[name], self._number)
        # a remaining minority writes only to its own nodes, and loses these writes (native-replication.md)
        on = sum(host.on for host in self.hosts.values())
        if backends and (on >= self.cluster.majority or len(self.hosts) == 2):
            self.acknowledged.add(self._number)

    def write_cut_short(self, reached: Callable[[str], bool], names: Iterable[str]) -> None:
        """Cut the power of hosts during a write; the client uses a pgpool-II that is left, if there is one.

        (A pgpool-II that dies with its host within a statement leaves the other nodes different, as upstream's
        native replication does; no client gets an acknowledgement of that write.)
        """
        names = list(names)
        if set(self.pools) - set(names):
            self.cut(names)
            self.write(reached)
            return
        self._number += 1
        up = [name for name, up in self.view.items() if up and self.pools and self.hosts[name].up]
        if self.cluster.mode.streams:
            up = [one.name for one in [self._written()] if one is not None]
        for place, name in enumerate(up):
            if place == 0 or reached(name):
                self._append(self.hosts[name], self._number)
        self.cut(names)

    def _append(self, host: Host, number: int) -> None:
        assert host.data is not None
        host.data.log += ((host.data.timeline, number),)

    def _written(self) -> Host | None:
        """The node that the client of the first pgpool-II writes to, in streaming replication."""
        first = self.hosts[self.pools[0]] if self.pools else None
        host = self.hosts.get((first.writes_to if first else None) or "")
        return host if host and host.up and host.data and not host.data.standby else None

    def _write_to_primary(self, number: int, reached: Callable[[str], bool]) -> None:
        host = self._written()
        if host is None:
            return
        standbys = self._standbys_of(host)
        self._append(host, number)
        for one in standbys:
            if reached(one.name) and not one.slow and host.data and one.data:
                one.data.log, one.data.timeline, one.data.history = host.data.log, host.data.timeline, host.data.history
        self.waiting[number] = host.name
        self._acknowledge()

    # Turns

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Run the block on this host."""
        self.stack.append(name)
        try:
            yield
        finally:
            self.stack.pop()

    def on(self, name: str, request: Request[A], peer: str = "") -> A:
        """Ask an agent, as node `peer` or as a program on its own host."""
        here = self.hosts[name].here
        if here is None:
            raise ServerError(f"{name} is out of reach", hint="pgpoolctl status")
        with self.within(name):
            return here.answer(request, lambda _: None, peer)

    def step(self, name: str) -> tuple[Action, ...]:
        """One round of an agent, as in agent.py."""
        host = self.hosts[name]
        if not host.on or host.here is None or name in self.acting:
            return ()
        self.catch_up()
        actions: tuple[Action, ...] = ()
        try:
            with self.within(name), Acting(self, name):
                actions = self._step(host, host.here)
        except PowerCut:
            self.told[name] = ""
        except ClusterError as error:
            self.told[name] = f"{error.message}; hint: {error.hint}"
        return actions

    def _step(self, host: Host, here: Me) -> tuple[Action, ...]:
        if not self.cluster.mode.streams and here.under_way.promoting:
            target.attend(here)
        policy = Policy(
            automatic_return=here.returns_by_itself,
            exhausted=here.under_way.returns.exhausted,
            patient=host.patient,
        )
        facts = here.look_at_all()
        pause = pausing.learn(here, facts)

        def permitted(facts: ClusterFacts) -> tuple[Action, ...]:
            return standstill.permitted(decide(self.cluster, host.node, facts, policy), pause)

        actions = confirmed(permitted(facts), lambda: permitted(self.seen()))
        self.told[host.name] = "; ".join(said(action) for action in actions if isinstance(action, QUIET))
        failed: ClusterError | None = None
        stopped: set[bool] = set()
        for action in actions:
            of_pgpool = isinstance(action, agent._OF_PGPOOL) and self.cluster.mode.streams
            if of_pgpool in stopped:
                continue
            try:
                act.perform(here, action)
            except ClusterError as error:
                failed = failed or error
                if not isinstance(action, Attach):
                    stopped.add(of_pgpool)
        if host.synchrony is not None and self.cluster.mode.streams:
            host.synchrony.tend(self.seen())
        if failed:
            raise failed
        return actions

    def pause(self) -> None:
        """One program waits, and all others continue."""
        if self._between:
            return
        self._between = True
        try:
            for name in list(self.hosts):
                self.step(name)
        finally:
            self._between = False
        self.need_power()

    def settle(self, order: Iterable[str], rounds: int = 40) -> dict[str, tuple[Action, ...]]:
        """Let all take turns until nothing changes any more, and return the final decision of each."""
        order = list(order)
        for _ in range(rounds):
            before = self.state()
            self.clock += 100
            done = {name: self.step(name) for name in order}
            for host in self.databases:
                self.check(host.name)
            self.catch_up()
            if self.state() == before:
                return done
        raise AssertionError(f"no rest after {rounds} rounds\n{self.shown()}")

    # Checks

    def state(self) -> tuple[Any, ...]:
        """All state that a turn may change."""
        hosts = tuple(
            (
                host.on,
                host.up,
                host.by_hand,
                host.pool,
                host.record,
                repr(host.data),
                host.here and host.here.under_way.promoting,
                host.names,
                host.synchrony and host.synchrony.goes_on,
            )
            for host in self.hosts.values()
        )
        views = tuple((tuple(host.view.items()), host.writes_to) for host in self.hosts.values())
        return (*hosts, tuple(self.pools), tuple(self.view.items()), views)

    def is_healthy(self) -> bool:
        return healthy(self.cluster, self.seen())

    def serves(self) -> bool:
        """Return whether a client's write would succeed."""
        facts = self.seen()
        if self.cluster.mode.streams:
            written, primary = self._written(), rightful_primary(self.cluster, facts)
            return written is not None and primary is not None and primary.node == written.name
        good = [one.node for one in in_service(self.cluster, facts)]
        leading = leading_pgpools(self.cluster, facts)
        return any(one.backends.get(name) is BackendState.UP for one in leading for name in good)

    def commands(self) -> list[tuple[str, str]]:
        """The commands in the notes, each with its verb and its node."""
        found: dict[tuple[str, str], None] = {}
        for name, host in self.hosts.items():
            text = self.told.get(name, "") if host.on else ""
            if host.record.held:
                found["attach", name] = None
            if "systemctl start postgresql" in text:
                found["start", name] = None
            for verb, node_ in re.findall(r"pgpoolctl (recover|attach) ([a-z]+[0-9]*)", text):
                found[verb, node_] = None
        return list(found)

    def command(self, verb: str, name: str) -> str:
        """Run an administrator's command on the node; return its error."""
        self.story.append(f"command {verb} {name}")
        try:
            if verb == "start":
                self.start_unit(name)
            elif verb == "accept":
                self.on(name, SwitchoverRequest(name, accept_loss=True))
            else:
                self.on(name, protocol.REQUESTS[verb](node=name))  # type: ignore[call-arg]
        except ClusterError as error:
            return f"{verb} {name}: {error.message}"
        except PowerCut:
            return f"{verb} {name}: its host has lost its power"
        return ""

    def shown(self) -> str:
        """The world as lines of text."""
        lines = [f"{self.cluster.mode}, story: {'; '.join(self.story) or 'none'}"]
        for name, host in self.hosts.items():
            data, record = host.data, host.record
            state = "no host" if not host.on else str(self.facts(name).postgresql) if host.database else "witness"
            words = [f"  {name}: {state}", f"term {record.term} led {record.led}"]
            if record.copying:
                words.append(f"half copy of {record.copying}")
            if record.held:
                words.append("held")
            if data:
                kind = f"standby of {data.follows}" if data.standby else "primary"
                words.append(f"{kind}{' crashed' if data.crashed else ''} timeline {data.timeline} log {data.log}")
            if host.here and host.here.under_way.promoting:
                words.append("promoting")
            words.append(f"pgpool {'runs' if host.pool else 'does not run'}")
            if host.pool and self.cluster.mode.streams:
                words.append(f"it believes {host.view} and writes to {host.writes_to}")
            lines.append(", ".join(words) + f"\n    told: {self.told.get(name, '')!r}")
        if not self.cluster.mode.streams:
            lines.append(f"  pgpool-II leads on {self.pools[:1]}, quorum {self.quorum}, believes {self.view}")
        lines.append(f"  acknowledged {sorted(self.acknowledged)}")
        return "\n".join(lines)


@dataclass(slots=True)
class Server:
    """A stand-in for `Database`."""

    world: World
    host: Host
    instance: Any = field(default_factory=lambda: SimpleNamespace(unit=UNIT, configuration=""))
    refused: str = ""
    shut: str = ""

    @contextmanager
    def session(self, _: str, **__: object) -> Generator[Any]:
        yield SimpleNamespace(execute=lambda *_: None, fetchall=list)

    def close(self) -> None:
        pass


class _Threads:
    """A stand-in for `threading`: background work runs at once, while its node's agent continues."""

    def __init__(self, current: list[World]) -> None:
        self._current = current

    def Thread(self, target: Callable[..., object], args: tuple[Any, ...] = (), **_: object) -> Any:  # noqa: N802
        def start() -> None:
            world = self._current[0]
            before, world.acting = world.acting, []
            try:
                target(*args)
            finally:
                world.acting = before

        return SimpleNamespace(start=start, join=lambda: None)


class _Clock:
    """A stand-in for `time`: a sleep lets the others continue."""

    def __init__(self, current: list[World]) -> None:
        self._current = current

    def monotonic(self) -> float:
        return self._current[0].clock

    def sleep(self, _: float) -> None:
        self._current[0].clock += 5
        self._current[0].pause()


class _Serve:
    """paths.SERVE of whichever host runs the code."""

    def __init__(self, current: list[World]) -> None:
        self._current = current

    @property
    def _host(self) -> Host:
        return self._current[0].hosts[self._current[0].stack[-1]]

    def exists(self) -> bool:
        return self._host.serve

    def touch(self) -> None:
        self._host.serve = True

    def unlink(self) -> None:
        self._host.serve = False


_CURRENT: list[World] = []


@contextmanager
def at_work(world: World) -> Iterator[World]:
    """Set the world for the package's code during the block; only while `hands` shield it from the machine."""
    assert isinstance(paths.SERVE, _Serve)
    _CURRENT.insert(0, world)
    try:
        yield world
    finally:
        _CURRENT.pop(0)


@contextmanager
def hands() -> Iterator[None]:
    """Connect the package's code to the world instead of a machine."""

    def world() -> World:
        return _CURRENT[0]

    def control(verb: str, unit: str = "") -> None:
        if verb == "apply":
            world().apply(world().hosts[world().stack[-1]])
        if unit == paths.PGPOOL_UNIT and verb in ("start", "restart"):
            world().start_pool(world().hosts[world().stack[-1]])

    def state(_: str) -> UnitState:
        host = world().hosts[world().stack[-1]]
        return UnitState("active" if host.pool else "inactive", "success", was_active=host.pool, seconds=5)

    with pytest.MonkeyPatch.context() as patch:
        _replace_machine(patch)
        patch.setattr(units, "control", control)
        patch.setattr(units, "state", state)
        patch.setattr(pgpool, "attach", lambda *a, **k: world().attach(*a, **k))
        patch.setattr(pgpool, "detach", lambda *a: world().detach(*a))
        patch.setattr(pgpool, "redirect", lambda *a: world().redirect(*a))
        patch.setattr(pgpool, "pcp", lambda *a, **k: world().pcp(*a, **k))
        patch.setattr(pgpool, "write_status", lambda *a: world().write_status(*a))
        patch.setattr(pgpool, "listens", lambda *_, **__: True)
        patch.setattr(pg, "start", lambda server, **_: world().start_server(server.host))
        patch.setattr(server_log, "last_words", lambda _: "")
        patch.setattr(pg, "halt", lambda server: world().stop_server(server.host))
        patch.setattr(pg, "stop", lambda server: world().stop_server(server.host))
        patch.setattr(Here, "query", lambda *a: world().query(*a))
        # Under the lock `upstream`, this node's agent does not follow a primary, so it takes no turn meanwhile.
        patch.setattr(cutting, "poll", lambda query, **_: query() or query())
        patch.setattr(postmaster, "runs", lambda _: world().hosts[world().stack[-1]].up)
        patch.setattr(postmaster, "kill", lambda _: world().kill(world().stack[-1]))
        patch.setattr(synchrony, "ask_senders", lambda here: world().senders(here))
        patch.setattr(copying._Copy, "clone", _clone)
        patch.setattr(copying._Copy, "rewind", _rewind)
        patch.setattr(copying, "_rewindable", _rewindable)
        patch.setattr(copy_source, "refusal", lambda one, _: "" if world().hosts[one.name].up else "it does not answer")
        yield


def _clone(copy: copying._Copy) -> None:
    _CURRENT[0].copy(copy.here, copy.upstream.name, member=copy.member)


def _rewind(copy: copying._Copy) -> None:
    _CURRENT[0].copy(copy.here, copy.upstream.name, member=True, rewind=True)


def _rewindable(here: Here) -> bool:
    mine = here.look()
    return mine.system is not None and mine.system == here.record.system and not here.record.copying


def _replace_machine(patch: pytest.MonkeyPatch) -> None:
    threads, clock = _Threads(_CURRENT), _Clock(_CURRENT)
    for module in (
        act,
        agent,
        answers,
        node,
        queueing,
        sessions,
        stages,
        synchrony,
        takeover,
        target,
        two_stages,
        waiting,
    ):
        patch.setattr(module, "time", clock)
    patch.setattr(log, "_write", lambda *_: None)
    patch.setattr(act, "threading", threads)
    patch.setattr(synchrony, "threading", threads)
    patch.setattr(queueing, "threading", threads)
    patch.setattr(main_node, "threading", threads)
    patch.setattr(paths, "SERVE", _Serve(_CURRENT))
    patch.setattr(act, "Roles", SimpleNamespace(rendered=lambda: SimpleNamespace(lay=lambda _: None)))
    patch.setattr(restarts, "includes_drop_in", lambda _: True)
    patch.setattr(restarts, "restart_if_pending", lambda _: None)
    patch.setattr(sessions, "watch", lambda *_: None)
    patch.setattr(main_node, "align_sequences", lambda _: None)
    for module in (main_node, target, two_stages):
        patch.setattr(module, "await_joined", lambda *_, **__: None)
