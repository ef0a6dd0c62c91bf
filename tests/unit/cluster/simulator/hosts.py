"""Hosts with agents, PostgreSQL and pgpool-II, their disks and the network between them, in virtual time.

The agents run the package's own code: `decide`, the operations, `Here`, the answers to requests and the agent's loop.
Stand-ins replace the machine (machine.py), PostgreSQL (servers.py), pgpool-II (pools.py) and the network.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from pgpool_cluster.agent.agent import BUSY_SECONDS, CALM_SECONDS, Agent
from pgpool_cluster.agent.life_signs import LifeSigns
from pgpool_cluster.decision.facts import replay
from pgpool_cluster.decision.facts.excuse import NO_EXCUSE
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, Postgresql
from pgpool_cluster.decision.liveness.links import LinkState
from pgpool_cluster.decision.reports.status import healthy
from pgpool_cluster.decision.situation import rightful_primary
from pgpool_cluster.definition.cluster import Cluster, Node, Service
from pgpool_cluster.ground.errors import ClusterError, OperationError, ServerError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.node.under_way import UnderWay
from pgpool_cluster.operations import timelines
from pgpool_cluster.operations.succession.synchrony import Synchrony
from pgpool_cluster.transport.protocol import LookRequest, MayStartRequest, Request

from .beats import Beating
from .kernel import Kernel, Killed, Lock, Process, Task
from .pools import Pool, Pools
from .servers import SYSTEM, Data, Running, Servers, Violation, position_of

A = TypeVar("A")
Done = Callable[[str, object], None]
"""Gets the answer of a node."""
HANGING_SECONDS = 20.0
LOOK_SECONDS = 1.5
KEPT_SECONDS = 0.3
UNSOUND_SECONDS = 12.0
"""How long after a pause or a partition a replaced primary may not have been stopped yet (`synchronous: 0`)."""
FENCED_SECONDS = 6.0
"""How long after the loss of its majority a primary may not have been fenced yet (`synchronous: 0`)."""
WRITE_BACK_SECONDS = 20.0
"""When the kernel writes what no program has synced."""
ASTRAY_SECONDS = 10.0
"""How long a pgpool-II may not write to the primary although its agent works and reaches every node."""
OVERTAKEN_SECONDS = 5.0
"""How long a server may take writes in a term that was over when it started."""
_NEAR_SECONDS = 0.5
"""With more latency than this, no echo of a heartbeat returns in time."""
_CALM_ROUNDS, _SKIPPED_ROUNDS = 1, 3
_MOST_KEPT = 100_000


@dataclass(frozen=True)
class Allowed:
    """Known limits of the package (docs/explanation/decide.md). A later change turns a switch off.

    `unheard`: with `synchronous: 0`, a primary is not fenced if its agent has started after the host was cut off.
    `blind`: an agent that copies data or executes a command informs its pgpool-II of nothing until that is complete.
    """

    unheard: bool = True
    blind: bool = True


class Host:
    """A machine. The record and the data are on its disk; agent, server and pgpool-II are its programs."""

    def __init__(self, node: Node) -> None:
        self.node, self.name = node, node.name
        self.pooled = Service.PGPOOL in node.runs
        self.on = True
        self.record = Record()
        self.unsaved: Record | None = None
        """A record that was written but not synced; a power cut loses it."""
        self.data: Data | None = None
        self.standby_names = ""
        """synchronous_standby_names in the configuration files."""
        self.pool_status: dict[str, bool] = {}
        self.kept: set[int] = set()
        """The clients' writes in the records of diverged WAL."""
        self.by_hand = False
        self.activating = False
        """systemd starts its PostgreSQL, and asks the agent whether it may."""
        self.serve = False
        self.agent: SimulatedAgent | None = None
        self.server: Running | None = None
        self.pool: Pool | None = None
        self.astray_since: float | None = None
        """Since when its pgpool-II has not written to the primary, although its agent could have told it."""
        self.slow = False
        """Its server receives WAL late."""
        self.disk_seconds = 0.0
        """How long a write to its disk takes."""
        self.unsound_at = float("-inf")
        """When it could last not know whether it was replaced."""
        self.alone_since: float | None = None
        """Since when it has reached too few nodes."""
        self.cut_at_save = ""
        """Whether the power fails "before" or "after" the next record is on disk."""
        self.at_save: Callable[[], None] | None = None
        """Happens once the next record is on disk."""

    @property
    def writes(self) -> set[int]:
        """The clients' writes that are on its disk."""
        return self.data.writes if self.data else set()

    @property
    def writable(self) -> bool:
        """Whether its server answers and takes writes."""
        running = self.server
        return running is not None and running.answers and running.process.runs and not (self.data or Data()).standby


class Looks:
    """A stand-in for `Shared`: this node's facts, at most 0.3 s old."""

    def __init__(self, world: World, host: Host, here: Here) -> None:
        self.world, self.host, self.here = world, host, here
        self.until = -1.0
        self.found: NodeFacts | None = None

    def forget(self) -> None:
        self.until = -1.0

    def prepare(self) -> None:
        pass

    def get(self) -> NodeFacts:
        now = self.world.kernel.now
        if self.found is None or now >= self.until:
            running = self.host.server
            if running is not None and running.process.paused and self.world.kernel.current is not None:
                self.world.kernel.sleep(LOOK_SECONDS)
            self.found = self.world.facts(self.host, self.here)
            self.until = self.world.kernel.now + KEPT_SECONDS
        return self.found


class Alarm:
    """A stand-in for `Wake`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ticket: Callable[[], None] | None = None
        self._set = False

    def set(self) -> None:
        self._set = True
        if self._ticket is not None:
            self._ticket()

    def wait(self, seconds: float) -> None:
        if not self._set:
            self._ticket = self._kernel.ticket()
            self._kernel.wait(seconds)
        self._ticket, self._set = None, False


class Chores:
    """A stand-in for `Housekeeping`, with the chores on which decisions depend."""

    def __init__(self, here: Here) -> None:
        self._here, self._synchrony = here, Synchrony(here)

    def keep(self, facts: ClusterFacts) -> str:
        try:
            timelines.tend(self._here, facts)
            self._synchrony.tend(facts)
        except ClusterError as error:
            return f"{error.message}; hint: {error.hint}"
        except psycopg2.Error as error:
            return str(error)
        return ""


class SimulatedAgent(Agent):
    """The package's agent as a program of the simulator."""

    process: Process
    world: World
    signs: LifeSigns
    loop: Task | None = None

    @property
    def is_blind(self) -> bool:
        """Whether its loop copies data, or waits for a command."""
        acting: Any = self.acting
        return bool(self.here.record.copying) or acting.owner not in (None, self.loop)

    def run(self) -> None:
        """Run the loop of `Agent.run`, but skip rounds whose facts can differ from the last ones in WAL positions only.

        While such an agent waits for something, it decides every two seconds instead of every half second.
        """
        world = self.world
        self.loop = world.kernel.current
        before, calm = -1, 0
        while True:
            if calm >= _CALM_ROUNDS and before == world.touched:
                self.wake.wait(CALM_SECONDS)
                continue
            now = world.touched
            busy = self.step()
            quiet = now == world.touched and not busy and not self.here.note.value and world.calm()
            calm = calm + 1 if quiet and before == now else 0
            before = now
            pause = self._contact.pause(BUSY_SECONDS if busy else CALM_SECONDS)
            self.wake.wait(pause)
            if pause < BUSY_SECONDS:
                continue
            for _ in range(_SKIPPED_ROUNDS if busy else 0):
                if now != world.touched:
                    break
                self.wake.wait(BUSY_SECONDS)

    def look(self, request: LookRequest) -> NodeFacts:
        """Answer the most frequent request without the way to its handler."""
        if request.fresh:
            self.here.forget_looks()
        return self.here.look()

    def _fail(self, text: str) -> None:
        if text.startswith("Traceback"):
            raise Violation(f"the agent of {self.here.me.name} fails: {text}")
        self.here.note.publish(text)


def _unreachable(name: str) -> ServerError:
    return ServerError(f"{name} is unreachable", hint="pgpoolctl status")


class Wires:
    """The connections of one agent to all others, in place of `Peers`."""

    def __init__(self, world: World, host: Host, process: Process) -> None:
        self.world, self.host, self.process = world, host, process
        self.peers: dict[str, Any] = {name: None for name in world.hosts if name != host.name}
        self.lost: dict[str, bool] = {}
        """The nodes that did not answer; requests to them fail at once until they are in reach again."""
        self._waiting: list[Done] = []
        """The receivers of the answers to requests that are under way."""

    def outcomes(
        self, names: list[str], request: Request[A], *, seconds: float = 10.0, patient: bool = False
    ) -> dict[str, Any]:
        """Ask some nodes at once; a node that did not answer the last time is asked only if it is in reach again."""
        kernel = self.world.kernel
        asked = [name for name in names if name in self.peers and (patient or not self._is_lost(name))]
        found: dict[str, Any] = {name: _unreachable(name) for name in names if name in self.peers and name not in asked}
        if not asked:
            return found
        wake, answers = kernel.ticket(), dict[str, Any]()

        def done(name: str, answer: object) -> None:
            if name in asked:
                answers.setdefault(name, answer)
            if len(answers) == len(asked):
                self.process.receive(wake)

        self._waiting.append(done)
        for name in asked:
            self.world.post(self.host, name, request, done)
        kernel.wait(seconds)
        self._waiting.remove(done)
        for name in asked:
            found[name] = answers.get(name) or _unreachable(name)
            self.lost[name] = isinstance(found[name], ServerError)
        return {name: found[name] for name in names if name in found}

    def _is_lost(self, name: str) -> bool:
        return self.lost.get(name, False) and not self.world.in_reach(self.host.name, name)

    def ask(self, name: str, request: Request[A], *, seconds: float, progress: object = None) -> A:
        del progress
        answer = self.outcomes([name], request, seconds=seconds, patient=True)[name]
        if isinstance(answer, ClusterError):
            raise answer
        return answer  # type: ignore[no-any-return]

    def ask_some(self, names: list[str], request: Request[A], *, seconds: float) -> dict[str, A]:
        found = self.outcomes(names, request, seconds=seconds)
        return {name: answer for name, answer in found.items() if not isinstance(answer, ClusterError)}

    def ask_all(self, request: Request[A], *, seconds: float) -> dict[str, A]:
        return self.ask_some(list(self.peers), request, seconds=seconds)

    def drop(self, name: str, reason: str) -> None:
        error = ServerError(reason, hint="pgpoolctl status")
        self.lost[name] = True
        for done in list(self._waiting):
            done(name, error)

    def close(self) -> None:
        pass


class Database:
    """A stand-in for the agent's `Database`."""

    refused = shut = ""
    instance = SimpleNamespace(unit="postgresql@15-main.service", configuration="/etc/postgresql/15/main")

    def __init__(self, world: World, host: Host) -> None:
        self.world, self.host = world, host

    def query(self, sql: str, values: tuple[object, ...] = (), *, seconds: float = 10.0) -> list[tuple[Any, ...]]:
        running, world = self.host.server, self.world
        waited = 0.0
        while running is not None and running.process.paused and waited < seconds:
            world.kernel.sleep(0.5)
            waited += 0.5
        if running is None or self.host.server is not running or not running.answers or running.process.paused:
            raise psycopg2.OperationalError("the server does not answer")
        return world.answer_query(self.host, running, sql, values)

    def close(self) -> None:
        pass


_FACTS: dict[object, NodeFacts] = {}


def _silently(_: str) -> None:
    """Report no progress."""


class World:
    """A cluster and its clients. Raises Violation as soon as an invariant is broken."""

    saves_durably = True
    """Whether the package syncs its record to disk before it goes on (machine.py)."""

    def __init__(self, cluster: Cluster, seed: int, allowed: Allowed) -> None:
        self.cluster, self.allowed = cluster, allowed
        self.random = random.Random(seed)
        self.kernel = Kernel()
        self.hosts = {one.name: Host(one) for one in cluster.nodes}
        self.databases = [self.hosts[one.name] for one in cluster.databases]
        self.servers = Servers(self)
        self.pools = Pools(self)
        self.beating = Beating(self)
        self.blocked: dict[tuple[str, str], int] = {}
        """How many faults cut each link, from one host to another."""
        self.late: dict[str, float] = {}
        """Seconds that are added to the latency of a host's links."""
        self.doubles = 0
        """How many faults let requests arrive twice."""
        self.acknowledged: set[int] = set()
        self.answered: set[int] = set()
        """The writes that any server has acknowledged, also one that had been replaced."""
        self.promised = cluster.synchronous > 0
        self.newest: Host | None = None
        """The host that became a primary last."""
        self.written = 0
        self._leaders: dict[int, str] = {}
        """The host that leads in each term."""
        self._by_process: dict[Process, Host] = {}
        self.touched = 0
        """Grows with each change other than WAL, so that nothing is done again while nothing changes."""
        self._healthy_at = (-1, False)
        self.clear = True
        """Whether all hosts are on and all links work."""

    # Beginnings

    def begin(self) -> None:
        """Let a healthy cluster run, whose first database node is the primary."""
        first = self.databases[0]
        for host in self.hosts.values():
            others = frozenset(one.node.slot for one in self.databases if one is not host)
            came = self.cluster.synchronous > 0
            host.serve = True
            if host in self.databases:
                is_first = host is first
                host.data = Data(standby=not is_first, follows=None if is_first else first.name)
                host.data.slots = others if is_first else frozenset()
                host.record = Record(system=SYSTEM, term=1, led=1 if is_first else 0, standbys_came=came)
                host.standby_names = self.cluster.standby_names(came=came)
                self.servers.start(host)
            else:
                host.record = Record(term=0)
            self.start_agent(host)
            if host.pooled:
                self.pools.start(host, first.name)
        self.kernel.after(1.0, self._tick)
        self.kernel.after(1.2, self._write)

    def start_agent(self, host: Host) -> None:
        """Start the agent's unit, if the host is on and the agent does not run."""
        if not host.on or (host.agent is not None and host.agent.process.alive):
            return
        process, kernel = Process(), self.kernel
        database: Any = Database(self, host) if host in self.databases else None
        wires: Any = Wires(self, host, process)
        lock: Any = Lock
        record, under_way = host.unsaved or host.record, UnderWay(upstream=lock(kernel), _one_promotion=lock(kernel))
        here = Here(self.cluster, host.node, database, wires, record, under_way=under_way, _lock=lock(kernel))
        here._looks = Looks(self, host, here)  # type: ignore[assignment]
        alarm: Any = Alarm(kernel)
        agent = SimulatedAgent(here, lock(kernel), alarm, began=kernel.now)
        agent.process, agent.world = process, self
        agent._housekeeping = Chores(here)  # type: ignore[assignment]
        here.answer = agent.answer
        agent.signs = self.beating.begin(here, alarm.set)
        host.agent = agent
        self.touch()
        self._by_process[process] = host
        kernel.after(self.random.uniform(0.0, 2.0), lambda: kernel.spawn(process, agent.run))

    def rouse(self, host: Host) -> None:
        """Let a host's agent notice that PostgreSQL or pgpool-II has begun or ended there."""
        if host.agent is not None:
            host.agent.here.forget_looks()
            host.agent.wake.set()

    def current_host(self) -> Host:
        """Return the host whose agent runs now."""
        task = self.kernel.current
        if task is None or not task.process.alive:
            raise Killed
        return self._by_process[task.process]

    # Time

    def touch(self) -> None:
        """Note that something other than WAL has changed."""
        self.touched += 1
        self.beating.stir()
        self.clear = not any(self.blocked.values()) and all(host.on for host in self.hosts.values())

    def calm(self) -> bool:
        """Return whether the cluster is healthy; computed once for each change."""
        if self._healthy_at[0] != self.touched:
            self._healthy_at = (self.touched, self.is_healthy())
        return self._healthy_at[1]

    def _tick(self) -> None:
        self.kernel.after(1.0, self._tick)
        for host in self.databases:
            self.servers.tick(host)
            if not (self.clear and self.calm()):
                self._note_unsound(host)
            running = host.server
            if running is not None:
                apart = running.receiver is None and host.data is not None and host.data.standby
                running.apart_since = (running.apart_since or self.kernel.now) if apart else None
        for host in self.hosts.values():
            self._check_direction(host)

    def latency(self, one: Host, other: Host) -> float:
        """Return how long a packet travels now."""
        late = self.late
        seconds = 0.001 + 0.02 * self.random.random()
        return seconds + late.get(one.name, 0.0) + late.get(other.name, 0.0) if late else seconds

    # Network

    def linked(self, sender: str, receiver: str) -> bool:
        """Return whether packets pass in this direction; a host without power receives none."""
        if self.clear:
            return True
        return not self.blocked.get((sender, receiver)) and self.hosts[sender].on and self.hosts[receiver].on

    def linked_both(self, one: str, other: str) -> bool:
        """Return whether a connection between the hosts works."""
        return self.linked(one, other) and self.linked(other, one)

    def in_reach(self, asker: str, name: str) -> bool:
        """Return whether an agent answers a request."""
        agent = self.hosts[name].agent
        return agent is not None and agent.process.runs and self.linked_both(asker, name)

    def _is_near(self, one: str, other: str) -> bool:
        late = self.late.get(one, 0.0) + self.late.get(other, 0.0)
        return late < _NEAR_SECONDS and self.in_reach(one, other)

    def post(self, sender: Host, name: str, request: Request[Any], done: Done) -> None:
        """Send a request; `done` gets the answer, or the error, if one arrives."""
        receiver = self.hosts[name]
        times = 2 if self.doubles and self.random.random() < 0.5 else 1
        for _ in range(times):
            self.kernel.after(self.latency(sender, receiver), lambda: self._arrive(sender, receiver, request, done))

    def _arrive(self, sender: Host, receiver: Host, request: Request[Any], done: Done) -> None:
        if not self.linked(sender.name, receiver.name):
            if sender.on and receiver.on and self.random.random() < 0.8:  # TCP repeats it
                self.kernel.after(0.4, lambda: self._arrive(sender, receiver, request, done))
            return
        agent = receiver.agent
        if agent is None or not agent.process.alive:
            self._reply(receiver, sender, done, ServerError(f"{receiver.name} refuses the connection", hint=""))
            return
        agent.process.receive(lambda: self._handle(agent, sender, receiver, request, done))

    def _handle(self, agent: SimulatedAgent, sender: Host, receiver: Host, request: Request[Any], done: Done) -> None:
        def work() -> None:
            try:
                answer: object = agent.answer(request, _silently, sender.name)
            except ClusterError as error:
                answer = OperationError(error.message, hint=error.hint)
            self._reply(receiver, sender, done, answer)

        running = receiver.server
        if isinstance(request, LookRequest) and not (running is not None and running.process.paused):
            self._reply(receiver, sender, done, agent.look(request))
        else:
            self.kernel.spawn(agent.process, work)

    def _reply(self, sender: Host, receiver: Host, done: Done, answer: object) -> None:
        def arrive() -> None:
            if self.linked(sender.name, receiver.name):
                done(sender.name, answer)
            elif sender.on and receiver.on and self.random.random() < 0.8:
                self.kernel.after(0.4, arrive)

        self.kernel.after(self.latency(sender, receiver), arrive)

    # Facts

    def facts(self, host: Host, here: Here) -> NodeFacts:
        """Return the facts of a node as its agent collects them; equal ones are one object."""
        record, data, running = here.record, host.data, host.server
        state, names, apart = Postgresql.UP, "", False
        if running is None:
            down = Postgresql.STOPPED if host.by_hand else Postgresql.DOWN
            state = Postgresql.STARTING if host.activating else down
        elif not running.process.runs or not running.answers:
            running.silent_since = running.silent_since or self.kernel.now
            long = here.beats.frozen or self.kernel.now - running.silent_since > HANGING_SECONDS
            state = Postgresql.HANGING if long else Postgresql.STARTING
        else:
            running.silent_since = None
            names = running.names
            apart = running.apart_since is not None and self.kernel.now - running.apart_since > replay.APART_SECONDS
        receives = running is not None and running.receiver is not None
        key = (
            id(self.cluster), host.name, state, names, apart, receives, id(self.pools.facts(host)), record.term,
            record.led, record.held, record.copying, record.standbys_came, record.dropped, record.excuse,
            here.under_way.promoting, here.silent.value, record.loss, record.pause, record.origins,
            data and (len(data.log), data.timeline, data.history, data.standby, data.follows, data.slots, data.ended),
        )  # fmt: skip
        found = _FACTS.get(key)
        if found is None:
            if len(_FACTS) > _MOST_KEPT:
                _FACTS.clear()
            found = _FACTS[key] = self._facts(host, here, state, apart=apart)
        return found

    def _facts(self, host: Host, here: Here, state: Postgresql, *, apart: bool) -> NodeFacts:
        record, data, running = here.record, host.data, host.server
        found: dict[str, Any] = {
            "term": record.term, "led": record.led, "held": record.held, "half_copied": bool(record.copying),
            "promoting": here.under_way.promoting, "member": record.system is not None, "excuse": record.excuse,
            "standbys_came": record.standbys_came, "file": here.cluster.fingerprint, "pgpool": self.pools.facts(host),
            "silent": here.silent.value, "loss": record.loss, "pause": record.pause, "beats": True,
            "origins": record.origins,
        }  # fmt: skip
        if data is None:
            return NodeFacts(host.name, **found)
        found |= {
            "postgresql": state, "system": SYSTEM, "standby_signal": data.standby, "timeline": data.timeline,
            "history": data.history,
        }  # fmt: skip
        if running is None:
            return NodeFacts(host.name, position=data.position if data.ended else None, **found)
        if state is not Postgresql.UP:
            return NodeFacts(host.name, **found)
        names = here.cluster.standby_names(came=record.standbys_came, dropped=record.dropped)
        return NodeFacts(
            host.name, position=data.position, in_recovery=data.standby, databases=("app",), slots=data.slots,
            follows=data.follows if data.standby else None, streaming=data.standby and running.receiver is not None,
            replayed=data.position if data.standby else None, laid=running.names == names,
            stalled="it has not received anything for 30 s" if apart else "", **found,
        )  # fmt: skip

    def seen(self) -> ClusterFacts:
        """Return the facts of all nodes without delay."""
        return ClusterFacts({
            name: self.facts(host, host.agent.here)
            for name, host in self.hosts.items() if host.on and host.agent and host.agent.process.runs
        })  # fmt: skip

    # PostgreSQL

    def answer_query(self, host: Host, running: Running, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:  # noqa: C901, PLR0911 - one case a query
        """Answer the queries of the operations."""
        data = host.data
        assert data is not None
        if "walreceiver" in sql:
            receivers = int(running.receiver is not None)
            self.servers.leave(running)
            return [(data.follows is None, receivers)]
        if "pg_promote" in sql:
            seconds = self.random.uniform(0.02, 0.3)
            self.kernel.after(seconds, lambda: running.process.receive(lambda: self._promoted(host, running)))
            return [(True,)]
        if "pg_is_in_recovery" in sql:
            return [(data.standby,)]
        if "ALTER SYSTEM SET primary_conninfo" in sql:
            address = re.findall(r"host=(\S+)", sql)
            data.follows = next((one.name for one in self.cluster.databases if [one.address] == address), None)
            self.touch()
        elif "pg_reload_conf" in sql:
            self.servers.reload(host)
        elif "pg_create_physical" in sql:
            data.slots |= {str(values[0])}
            self.touch()
        elif "pg_drop_replication_slot" in sql:
            active = {self.hosts[name].node.slot for name in running.senders}
            data.slots -= {str(values[0])} - active
        elif "pg_current_wal_flush_lsn" in sql:
            return [(str(data.position),)]
        elif "pg_stat_replication" in sql:
            return [
                (name, str(position_of(stream.flushed)), int(f'"{name}"' in running.names))
                for name, stream in running.senders.items()
            ]
        elif "pg_control_system" in sql:
            return [(SYSTEM,)]
        return [("0/0",)]

    def _promoted(self, host: Host, running: Running) -> None:
        if host.server is running:
            self.servers.end_recovery(host)

    def notes_writable(self, host: Host) -> None:
        """Check a server that begins to take writes: in the latest term, it must have every acknowledged write."""
        if host.record.term > host.record.led and not (host.server and host.server.was_paused):
            host.unsound_at = self.kernel.now  # its agent stops it soon
            running = host.server
            self.kernel.after(OVERTAKEN_SECONDS, lambda: self._check_overtaken(host, running))
        if self.newest is None or host.record.led >= self.newest.record.led:
            self.newest = host
            self.check_writes(host, "takes writes")

    def _check_overtaken(self, host: Host, running: Running | None) -> None:
        """Raise Violation if a server that began to take writes in an earlier term still does so."""
        record, agent = host.record, host.agent
        sound = agent is not None and agent.process.runs and not host.disk_seconds and not self.late
        if sound and host.server is running and host.writable and record.term > record.led:
            raise Violation(f"{host.name} takes writes in term {record.led}, and knows of term {record.term} already")

    def check_writes(self, host: Host, what: str) -> None:
        """Raise Violation if the host lacks an acknowledged write."""
        missing = self.acknowledged - host.writes
        if self.promised and missing:
            raise Violation(f"{host.name} {what} without the acknowledged writes {sorted(missing)}")

    def check_kept(self, primary: Host) -> None:
        """Raise Violation if an acknowledged write is neither on the primary nor in a record of diverged WAL."""
        gone = self.answered - primary.writes - set().union(*(host.kept for host in self.databases))
        if gone:
            raise Violation(f"the acknowledged writes {sorted(gone)} are neither on {primary.name} nor kept")

    def _check_direction(self, host: Host) -> None:
        """Raise Violation if a pgpool-II does not write to the primary for long, although its agent could see to it."""
        pool, primary, agent = host.pool, self.newest, host.agent
        if pool is None or primary is None or (pool.writes_to == primary.name and pool.up[primary.name]):
            host.astray_since = None
            return
        works = pool.process.runs and agent is not None and agent.process.runs and not host.disk_seconds
        works = works and not (self.allowed.blind and agent is not None and agent.is_blind)
        if not (works and primary.writable and self.clear and not self.late) or host.astray_since is None:
            host.astray_since = self.kernel.now
        elif self.kernel.now - host.astray_since > ASTRAY_SECONDS:
            raise Violation(f"pgpool-II of {host.name} does not write to {primary.name}, which is the primary")

    def check_pools(self, primary: Host) -> None:
        """Raise Violation if a pgpool-II does not write to the primary, or does not use every node."""
        for host in self.hosts.values():
            pool = host.pool
            if host.pooled and (pool is None or pool.writes_to != primary.name or not all(pool.up.values())):
                raise Violation(f"pgpool-II of {host.name} does not write to {primary.name}, or does not use all nodes")

    def acknowledge(self, host: Host, number: int) -> None:
        """Let a client get the acknowledgement of a server."""
        self.answered.add(number)
        if self.newest is not None and host.record.led > self.newest.record.led:
            self.notes_writable(host)  # it has claimed a new term while it was writable
        if host is self.newest or (self.newest is not None and number in self.newest.writes):
            self.acknowledged.add(number)
            return
        if self.promised or not self._is_unsound(host):
            newest = self.newest.name if self.newest else "no server"
            raise Violation(f"{host.name} acknowledges a write after {newest} was promoted")

    def _is_unsound(self, host: Host) -> bool:
        return self.kernel.now - host.unsound_at < UNSOUND_SECONDS

    def _note_unsound(self, host: Host) -> None:
        """Note when a host could not know that it was replaced: it, its agent or its links did not work."""
        agent, running = host.agent, host.server
        works = host.on and agent is not None and agent.process.runs
        reached = 1 + sum(self._is_near(host.name, name) for name in self.hosts if name != host.name)
        paused = running is not None and running.process.paused
        alone = reached < self.cluster.majority
        host.alone_since = (host.alone_since or self.kernel.now) if alone else None
        if host.alone_since is not None and self.kernel.now - host.alone_since < FENCED_SECONDS:
            host.unsound_at = self.kernel.now
        unheard = self.allowed.unheard and agent is not None and alone and self._unheard(agent)
        if not works or paused or unheard:
            host.unsound_at = self.kernel.now

    @staticmethod
    def _unheard(agent: SimulatedAgent) -> bool:
        """Return whether an agent has had no link with some node since it started."""
        return any(link.state is LinkState.UNKNOWN for link in agent.here.beats.links().values())

    # Clients

    def _write(self) -> None:
        self.kernel.after(self.random.uniform(0.3, 1.0), self._write)
        choice = self.random.random()
        if choice < 0.6:
            pools = [host for host in self.hosts.values() if host.pool and host.pool.process.runs]
            if not pools:
                return
            through = self.random.choice(pools)
            assert through.pool is not None
            names = [through.pool.writes_to] if through.pool.writes_to else []
            names = [name for name in names if self.linked_both(through.name, name)]
        else:  # past pgpool-II
            names = [host.name for host in self.databases if host.writable]
        for name in names[:2]:
            if self.hosts[name].writable:
                self.written += 1
                self.servers.write(self.hosts[name], self.written)

    # Hosts

    def save(self, record: Record) -> None:
        """Write a record to the disk of the host whose agent runs."""
        host = self.current_host()
        if record.led and self._leaders.setdefault(record.led, host.name) != host.name:
            raise Violation(f"{host.name} leads in term {record.led}, as {self._leaders[record.led]} does")
        cut, host.cut_at_save = host.cut_at_save, ""
        self.kernel.sleep(0.002 + host.disk_seconds)
        if cut == "before":
            self.kernel.after(0.0, lambda: self.power_cut(host))
            self.kernel.sleep(1.0)
        if self.saves_durably:
            host.record = record
        else:
            host.unsaved = record
            self.kernel.after(WRITE_BACK_SECONDS, lambda: self._write_back(host, record))
        self.touch()
        work, host.at_save = host.at_save, None
        if work is not None:
            self.kernel.after(0.0, work)
            self.kernel.sleep(0.001)
        if cut == "after":
            self.kernel.after(0.0, lambda: self.power_cut(host))
            self.kernel.sleep(1.0)

    def _write_back(self, host: Host, record: Record) -> None:
        if host.unsaved is record:
            host.record, host.unsaved = record, None

    def power_cut(self, host: Host) -> None:
        """Cut the power of a host."""
        if not host.on:
            return
        self.servers.kill(host, silent=True)
        self.end_agent(host)
        self.pools.end(host)
        host.on, host.serve, host.unsaved = False, False, None
        self.touch()

    def end_agent(self, host: Host) -> None:
        """Kill the agent."""
        if host.agent is not None:
            host.agent.process.kill()
            self._by_process.pop(host.agent.process, None)
            host.agent = None
            self.touch()

    def boot(self, host: Host) -> None:
        """Power a host on: its units start, PostgreSQL's with the agent's permission."""
        if host.on:
            return
        host.on = True
        self.touch()
        kernel = self.kernel
        kernel.after(self.random.uniform(0.2, 1.5), lambda: self.start_agent(host))
        if host in self.databases:
            kernel.after(self.random.uniform(0.2, 4.0), lambda: self.start_unit(host))

    def start_unit(self, host: Host) -> None:
        """Run `systemctl start postgresql`: the agent is asked first."""
        agent, host.by_hand = host.agent, False
        if not host.on or agent is None or host.server is not None:
            return

        def work() -> None:
            host.activating = True
            try:
                if agent.answer(MayStartRequest("15-main"), _silently).go and agent.process.alive:
                    self.servers.start(host)
            except ClusterError:
                return
            finally:
                host.activating = False

        self.kernel.spawn(agent.process, work)

    # The end

    def is_healthy(self) -> bool:
        """Return whether every node has its role, and every pgpool-II uses every node."""
        return healthy(self.cluster, self.seen())

    def primary(self) -> Host | None:
        """Return the rightful primary."""
        found = rightful_primary(self.cluster, self.seen())
        return self.hosts[found.node] if found else None

    def notes(self) -> dict[str, str]:
        """Return what each agent reports."""
        return {name: host.agent.here.note.value for name, host in self.hosts.items() if host.agent}

    def shown(self) -> str:
        """Return the world as lines of text."""
        lines = [f"at {self.kernel.now - 1000:.1f} s, acknowledged {len(self.acknowledged)}"]
        for name, host in self.hosts.items():
            data, record = host.data, host.record
            words = [name, "on" if host.on else "off", f"term {record.term} led {record.led}"]
            if record.excuse != NO_EXCUSE or record.dropped:
                words.append(f"dropped {record.dropped} excuse {record.excuse}")
            if record.origins:
                words.append("origins " + " ".join(f"{one.timeline}:{one.term}" for one in record.origins))
            if record.copying:
                words.append(f"half copy of {record.copying}")
            if data:
                state = "down" if host.server is None else "up" if host.server.answers else "starting"
                role = f"standby of {data.follows}" if data.standby else "primary"
                words.append(f"{state} {role} timeline {data.timeline} end {data.position.bytes}")
                if host.server and data.standby:
                    words.append(f"receives {host.server.receiver is not None}")
                if host.server and host.server.process.paused:
                    words.append("paused")
            if host.pool:
                down = [one for one, up in host.pool.up.items() if not up]
                words.append(f"pgpool down {down} writes to {host.pool.writes_to}")
            note = host.agent.here.note.value if host.agent else "no agent"
            lines.append("  " + ", ".join(words) + (f"\n      {note}" if note else ""))
        return "\n".join(lines)
