"""A small model of pgpool-II: its watchdog, its health checks, its view of the nodes, and its failover_command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgpool_cluster.decision.facts.facts import BackendState, PgpoolFacts, WatchdogState
from pgpool_cluster.ground.errors import ClusterError, OperationError
from pgpool_cluster.transport.protocol import FailoverRequest

from .kernel import Process

if TYPE_CHECKING:
    from .hosts import Host, World

DEAD_SECONDS = 8
"""wd_heartbeat_deadtime."""
ELECTION_SECONDS = 3
REFUSED_SECONDS, SILENT_SECONDS = 4, 14
"""How long health checks take to give up a server that refuses connections, or that is silent."""


@dataclass(slots=True, eq=False)
class Pool:
    """A running pgpool-II. `up`: the nodes that it believes to be up; `writes_to`: the primary that it has found."""

    process: Process
    up: dict[str, bool]
    heard: dict[str, int] = field(default_factory=dict)
    """For how many seconds it has not heard the others."""
    bad: dict[str, float] = field(default_factory=dict)
    """For how many seconds its health checks of the nodes have failed."""
    leads: bool = False
    follows: str = ""
    alone_for: int = 0
    """For how many seconds it has known no leader."""
    busy: bool = False
    """Its failover_command runs."""
    writes_to: str | None = None


_FACTS: dict[tuple[bool | int, ...], PgpoolFacts] = {}


class Pools:
    """The pgpool-IIs of all hosts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = len(world.cluster.pgpools)
        self._settled = -1
        """The world's `touched` after which nothing changes with time."""

    def start(self, host: Host) -> None:
        """Start pgpool-II."""
        if host.pool is None and host.on:
            up = dict(host.pool_status or dict.fromkeys((one.name for one in self.world.cluster.databases), True))
            self.world.touch()
            self.world.rouse(host)
            host.pool = Pool(Process(), up if any(up.values()) else dict.fromkeys(up, True))
            self._search(host, host.pool)

    def end(self, host: Host) -> None:
        """End pgpool-II."""
        if host.pool is not None:
            host.pool.process.kill()
            host.pool = None
            self.world.touch()
            self.world.rouse(host)

    def facts(self, host: Host) -> PgpoolFacts | None:
        """Return what pcp reports; None if pgpool-II does not answer."""
        pool = host.pool
        if pool is None or not pool.process.runs:
            return None
        key = (self.count == 1, pool.leads, bool(pool.follows), self.quorum(pool), *pool.up.values(), len(pool.up))
        found = _FACTS.get(key)
        if found is None:
            found = _FACTS[key] = PgpoolFacts(self._state(pool), self.quorum(pool), {
                name: BackendState.UP if up else BackendState.DOWN for name, up in pool.up.items()
            })  # fmt: skip
        return found

    def _state(self, pool: Pool) -> WatchdogState:
        if self.count == 1:
            return WatchdogState.ALONE
        if pool.leads:
            return WatchdogState.LEADER
        return WatchdogState.STANDBY if pool.follows else WatchdogState.OTHER

    def quorum(self, pool: Pool) -> bool:
        """Return whether it hears more than half of all pgpool-IIs, with itself."""
        return 2 * (1 + sum(silent < DEAD_SECONDS for silent in pool.heard.values())) > self.count

    def tick(self) -> None:
        """Let a second pass."""
        if self._settled == self.world.touched:
            return
        before = self.world.touched
        pools = [(host, host.pool) for host in self.world.hosts.values() if host.pool and host.pool.process.runs]
        for host, pool in pools:
            self._hear(host, pool)
        if self.count > 1:
            for host, pool in pools:
                self._elect(host, pool)
        for host, pool in pools:
            self._check(host, pool)
        for host, pool in pools:
            if pool.writes_to is None and not pool.busy:
                self._search(host, pool)
            if (pool.leads and self.quorum(pool)) or self.count == 1:
                self._give_up(host, pool)
        if before == self.world.touched and self.world.calm() and not any(self._restless(pool) for _, pool in pools):
            self._settled = before

    def _restless(self, pool: Pool) -> bool:
        waits = pool.busy or pool.writes_to is None or pool.alone_for
        return bool(waits or any(pool.heard.values()) or any(pool.bad.values()))

    def _hear(self, host: Host, pool: Pool) -> None:
        for other in self.world.hosts.values():
            if other is not host and other.pooled:
                heard = other.pool is not None and other.pool.process.runs and self.world.linked(other.name, host.name)
                pool.heard[other.name] = 0 if heard else min(DEAD_SECONDS, pool.heard.get(other.name, 0) + 1)

    def _hears(self, pool: Pool, name: str) -> Pool | None:
        """Return the pgpool-II of this host if it has been heard lately."""
        return self.world.hosts[name].pool if pool.heard.get(name, DEAD_SECONDS) < DEAD_SECONDS else None

    def _elect(self, host: Host, pool: Pool) -> None:
        leaders = [name for name in pool.heard if (other := self._hears(pool, name)) and other.leads]
        if pool.leads:
            better = [name for name in leaders if self._better(name, host.name)]
            if better:
                pool.leads, pool.follows = False, better[0]
                self.world.touch()
        elif leaders:
            pool.follows, pool.alone_for = leaders[0], 0
        else:
            pool.follows = ""
            pool.alone_for += 1
            first = min([host.name, *(name for name in pool.heard if self._hears(pool, name))])
            if pool.alone_for >= ELECTION_SECONDS and first == host.name:
                pool.leads, pool.alone_for = True, 0
                self.world.touch()
        leader = self._hears(pool, pool.follows) if pool.follows else None
        if leader is None or leader.busy:
            return
        if (pool.up, pool.writes_to) != (leader.up, leader.writes_to):
            pool.up, pool.writes_to = dict(leader.up), leader.writes_to
            host.pool_status = dict(pool.up)
            self.world.touch()

    def _better(self, name: str, mine: str) -> bool:
        other, pool = self.world.hosts[name].pool, self.world.hosts[mine].pool
        assert other is not None
        assert pool is not None
        return (self.quorum(other), mine) > (self.quorum(pool), name)

    def _check(self, host: Host, pool: Pool) -> None:
        for name, up in pool.up.items():
            other = self.world.hosts[name]
            server = other.server
            reached = other.on and self.world.linked_both(host.name, name)
            if reached and server is not None and server.process.runs and server.answers:
                pool.bad[name] = 0
                continue
            silent = not reached or (server is not None and server.process.paused)
            before = pool.bad.get(name, 0)
            step = REFUSED_SECONDS / SILENT_SECONDS if silent else 1.0
            pool.bad[name] = min(float(REFUSED_SECONDS), before + step) if up else 0

    def _give_up(self, host: Host, pool: Pool) -> None:
        if pool.busy:
            return
        for name, up in pool.up.items():
            votes = [other for other in self._voters(pool) if other.bad.get(name, 0) >= REFUSED_SECONDS]
            if up and 2 * len(votes) > self.count and pool.bad.get(name, 0) >= REFUSED_SECONDS:
                self._change(host, pool, name, up=False)
                return

    def _voters(self, pool: Pool) -> list[Pool]:
        return [pool, *(other for name in pool.heard if (other := self._hears(pool, name)))]

    def _change(self, host: Host, pool: Pool, name: str, *, up: bool) -> None:
        """Change a node's state, and call failover_command for one that is given up."""
        self.world.touch()
        pool.up[name] = up
        pool.bad[name] = 0
        host.pool_status = dict(pool.up)
        agent = host.agent
        number = next(place for place, one in enumerate(self.world.cluster.databases) if one.name == name)

        def ended() -> None:
            pool.busy = False
            self.world.touch()
            self._search(host, pool)

        def work() -> None:
            assert agent is not None
            try:
                agent.answer(FailoverRequest(number), lambda _: None)
            except ClusterError:
                pass
            finally:
                ended()

        if up or agent is None or not agent.process.alive:
            ended()
            return
        pool.busy = True
        self.world.kernel.spawn(agent.process, work)

    def _search(self, host: Host, pool: Pool) -> None:
        """Search for the primary, as after each change."""
        pool.writes_to = None
        for name, up in pool.up.items():
            other = self.world.hosts[name]
            if up and other.writable and self.world.linked_both(host.name, name):
                pool.writes_to = name

    def tell(self, host: Host, name: str, *, alive: bool) -> None:
        """Let a host's agent report another host to its watchdog; raises OperationError."""
        pool = host.pool
        if pool is None or not pool.process.runs:
            raise OperationError("wd_cli: no answer", hint="")
        pool.heard[name] = 0 if alive else DEAD_SECONDS
        self.world.touch()

    # pcp

    def pcp(self, host: Host, name: str, *, up: bool) -> None:
        """Attach or detach a node through a host's pgpool-II; raises OperationError."""
        pool = host.pool
        if pool is None or not pool.process.runs:
            raise OperationError("pcp: connection refused", hint="")
        leader, there = pool, host
        if self.count > 1 and not pool.leads:
            found = self._hears(pool, pool.follows) if pool.follows else None
            if found is None:
                raise OperationError("pcp: no leader", hint="")
            leader, there = found, self.world.hosts[pool.follows]
        if leader.busy:
            raise OperationError("pcp: it is busy with a failover", hint="")
        if leader.up[name] is not up:
            self._change(there, leader, name, up=up)
