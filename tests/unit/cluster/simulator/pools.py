"""A small model of pgpool-II without a watchdog: its view of the nodes, which only pcp changes, and its primary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgpool_cluster.decision.facts.facts import BackendState, PgpoolFacts, WatchdogState
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.pgpool import DOWN_ALREADY

from .kernel import Process

if TYPE_CHECKING:
    from .hosts import Host, World

CHANGE_SECONDS = 0.05, 0.4
"""How long a change takes at least, and at most."""
SEARCHES, SEARCH_PAUSE_SECONDS = 2, 1.0
"""How often pgpool-II looks for a primary before it goes on without one (search_primary_node_timeout)."""
CONNECT_SECONDS = 3.0
"""How long one search takes if a node does not answer (connect_timeout)."""


@dataclass(slots=True, eq=False)
class Pool:
    """A running pgpool-II. `up`: the nodes that it believes to be up; `writes_to`: the primary that it knows."""

    process: Process
    up: dict[str, bool]
    writes_to: str | None = None
    queue: list[tuple[str, str]] = field(default_factory=list)
    """The verbs and the nodes of the changes that it has accepted, but not begun."""
    busy: bool = True
    """It searches for the primary or carries out a change."""


_FACTS: dict[tuple[object, ...], PgpoolFacts] = {}


class Pools:
    """The pgpool-IIs of all hosts."""

    def __init__(self, world: World) -> None:
        self.world = world

    def start(self, host: Host, primary: str | None = None) -> None:
        """Start pgpool-II, which searches for the primary unless it is given."""
        if host.pool is not None or not host.on:
            return
        names = [one.name for one in self.world.cluster.databases]
        up = dict(host.pool_status or dict.fromkeys(names, True))
        pool = host.pool = Pool(Process(), up if any(up.values()) else dict.fromkeys(names, True), primary)
        self._changed(host, pool)
        self.world.rouse(host)
        self._search(host, pool, 0 if primary else SEARCHES)

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
        key = (pool.writes_to, *pool.up.values())
        found = _FACTS.get(key)
        if found is None:
            views = {name: BackendState.UP if up else BackendState.DOWN for name, up in pool.up.items()}
            found = _FACTS[key] = PgpoolFacts(WatchdogState.ALONE, quorum=True, backends=views, primary=pool.writes_to)
        return found

    # pcp

    def pcp(self, host: Host, verb: str, name: str) -> None:
        """Have a host's pgpool-II "attach" or "detach" a node, or "redirect" writes to it; raises OperationError.

        Like the pcp commands, this does not wait for the change.
        """
        pool = host.pool
        if pool is None or not pool.process.runs:
            raise OperationError("pcp: connection refused", hint="")
        if verb == "detach" and not pool.up[name]:
            raise OperationError(f"pcp: {name} {DOWN_ALREADY}", hint="")
        if verb == "redirect" and pool.writes_to == name:
            return  # pgpool.redirect accepts the refusal
        if verb == "redirect" and not pool.up[name]:
            raise OperationError(f"pcp: {name} is down", hint="")
        pool.queue.append((verb, name))
        if not pool.busy:
            self._next(host, pool)

    def _next(self, host: Host, pool: Pool) -> None:
        """Begin the next change."""
        pool.busy = bool(pool.queue)
        if pool.busy:
            verb, name = pool.queue.pop(0)
            self._later(pool, self.world.random.uniform(*CHANGE_SECONDS), lambda: self._change(host, pool, verb, name))

    def _later(self, pool: Pool, seconds: float, work: Callable[[], None]) -> None:
        self.world.kernel.after(seconds, lambda: pool.process.receive(work))

    def _change(self, host: Host, pool: Pool, verb: str, name: str) -> None:
        searches = name == pool.writes_to or (verb == "attach" and pool.writes_to is None)
        if verb != "redirect":
            pool.up[name] = verb == "attach"
        elif pool.up[name]:
            pool.up = {one: one == name for one in pool.up}  # it detaches all other nodes
            pool.writes_to, searches = name, False
        if searches:
            pool.writes_to = None
        self._changed(host, pool)
        self._search(host, pool, SEARCHES if searches else 0)

    def _changed(self, host: Host, pool: Pool) -> None:
        host.pool_status = dict(pool.up)
        self.world.touch()

    def _search(self, host: Host, pool: Pool, tries: int) -> None:
        """Search so many times for the primary among the nodes that are up, and go on with the next change."""
        if tries == 0:
            self._next(host, pool)
            return
        nodes = [self.world.hosts[name] for name, up in pool.up.items() if up]
        reached = [one for one in nodes if self.world.linked_both(host.name, one.name)]
        primary = next((one.name for one in reached if one.writable), None)
        if primary is not None:
            pool.writes_to = primary
            self._changed(host, pool)
        silent = len(reached) < len(nodes) or any(one.server and one.server.process.paused for one in reached)
        pause = CONNECT_SECONDS if silent else SEARCH_PAUSE_SECONDS if primary is None else 0.0
        self._later(pool, pause, lambda: self._search(host, pool, 0 if primary else tries - 1))
