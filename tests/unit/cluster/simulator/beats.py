"""The heartbeats between simulated agents: the arithmetic of `Links`, without datagrams, incarnations and states.

test_simulator.py compares it with `Links`. All agents send at the same moments. These have a clock of their own, which
stands still while nothing changes, so that calm times cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgpool_cluster.agent.life_signs import LifeSigns
from pgpool_cluster.agent.local_watch import FROZEN_SECONDS
from pgpool_cluster.decision.liveness.links import BEAT_SECONDS, DEAD_SECONDS, ECHO_SECONDS, Link, LinkState
from pgpool_cluster.decision.liveness.silence import Hanging
from pgpool_cluster.definition.cluster import Cluster, Node

if TYPE_CHECKING:
    from .hosts import Host, World

_AT_ONCE_SECONDS = 0.1
"""A datagram that travels for less time arrives before the next round."""
_CALM_ROUNDS = 25
"""After so many rounds without a change, no link and no probe changes any more."""


@dataclass(slots=True, eq=False)
class Heard:
    """The heartbeats that one agent has received from another one."""

    began: float
    supports: bool | None = None
    arrived: float = -math.inf
    """When the last datagram was sent that has arrived."""
    came: float = -math.inf
    """When any datagram arrived last."""
    heard: float = -math.inf
    proof: float = -math.inf
    up_since: float = -math.inf
    hangs: Hanging | None = None
    """Since when the sender says that its server hangs."""
    proven: float | None = None
    """When the sender's agent began whose datagram proved the link last."""

    @property
    def ends(self) -> float:
        """When the link is lost unless another datagram arrives."""
        return min(self.heard + DEAD_SECONDS, self.proof + ECHO_SECONDS)

    def receive(self, sent: float, echo: float, began: tuple[float, float], now: float, *, hangs: bool = False) -> None:
        """Process a datagram that was sent at `sent`; `echo`: when the datagram was sent that it echoes.

        `began`: when this agent began, and that of the sender. `hangs`: the sender says that its server hangs.
        """
        mine, theirs = began
        if sent <= self.arrived:
            return
        self.arrived, self.came, self.supports = sent, now, True
        self.hangs = (self.hangs or Hanging(now)) if hangs else None
        was_up = self.ends > now
        proves = echo >= mine and now - echo < ECHO_SECONDS
        if proves:
            self.proof = max(self.proof, echo) if was_up else echo
            self.up_since = self.up_since if was_up else now
            self.proven = theirs
        if proves or (was_up and self.proven == theirs):
            self.heard = now

    def link(self, name: str, now: float) -> Link:
        """Return the link as `Links.of` does."""
        if self.ends > now:
            return Link(name, LinkState.UP, self.up_since, self.came)
        if self.proven is not None:
            return Link(name, LinkState.LOST, self.ends, self.came)
        states = {None: LinkState.UNKNOWN, False: LinkState.UNSUPPORTED, True: LinkState.NEVER}
        return Link(name, states[self.supports], self.began, self.came)


class Beats:
    """A stand-in for `Heartbeats`."""

    active = True

    def __init__(self, cluster: Cluster, me: Node) -> None:
        self._names = [node.name for node in cluster.nodes if node is not me]
        self.begin(lambda: 0.0)

    def begin(self, clock: Callable[[], float]) -> None:
        """Hear nothing of what was sent before."""
        self._clock = clock
        self.began = clock()
        self._stopped: float | None = None
        self.peers = {name: Heard(self.began) for name in self._names}

    def links(self) -> dict[str, Link]:
        now = self._clock()
        return {name: peer.link(name, now) for name, peer in self.peers.items()}

    @property
    def frozen(self) -> bool:
        return self._stopped is not None and self._clock() - self._stopped >= FROZEN_SECONDS

    def hanging(self) -> dict[str, Hanging]:
        return {name: peer.hangs for name, peer in self.peers.items() if peer.hangs is not None}

    def watch(self, *, stopped: bool) -> bool:
        """Do what the local watch does: note whether a signal has stopped the server. Return whether that is news."""
        before = self.frozen
        self._stopped = (self._stopped or self._clock()) if stopped else None
        return self.frozen is not before

    def note_support(self, supports: Mapping[str, bool]) -> None:
        for name, does in supports.items():
            if name in self.peers:
                self.peers[name].supports = does


def _beats(host: Host) -> Beats:
    assert host.agent is not None
    found: Any = host.agent.here.beats
    assert isinstance(found, Beats)
    return found


class Beating:
    """The rounds of heartbeats of all agents, and their watches for signs of life."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 1000.0
        self.sender: Host | None = None
        """The host whose watch for signs of life runs now."""
        self._runs = False
        self._seen, self._quiet = -1, 0

    def clock(self) -> float:
        """Return the time of the heartbeats."""
        return self.now

    def begin(self, here: Any, wake: Callable[[], None]) -> LifeSigns:
        """Let an agent that starts take part, and return its watch."""
        here.beats.begin(self.clock)
        return LifeSigns(here, wake, self._answers, self._lets_in)

    def stir(self) -> None:
        """Go on, since something changes."""
        self._quiet = 0
        if not self._runs:
            self._runs = True
            self.world.kernel.after(BEAT_SECONDS, self._round)

    def _round(self) -> None:
        world = self.world
        self.now += BEAT_SECONDS
        hosts = [host for host in world.hosts.values() if host.agent is not None and host.agent.process.runs]
        for host in hosts:
            self._look_after(host)
        datagrams = [
            (host, other, _beats(other).peers[host.name], _beats(host).peers[other.name].arrived)
            for host in hosts for other in world.hosts.values() if other is not host and other.agent is not None
            and host.agent is not None
        ]  # fmt: skip
        for host, other, heard, echo in datagrams:
            self._send(host, other, heard, echo)
        for host in hosts:
            self._watch(host)
        self._quiet = self._quiet + 1 if world.touched == self._seen and not world.late else 0
        self._seen = world.touched
        self._runs = self._quiet < _CALM_ROUNDS
        if self._runs:
            world.kernel.after(BEAT_SECONDS, self._round)

    def _look_after(self, host: Host) -> None:
        """Let the local watch of an agent notice that a signal has stopped its server, or that it goes on."""
        running = host.server
        if _beats(host).watch(stopped=running is not None and running.process.paused > 0):
            self.world.touch()
            self.world.rouse(host)

    def _send(self, host: Host, other: Host, heard: Heard, echo: float) -> None:
        world, agent, sent, mine = self.world, other.agent, self.now, _beats(host)
        began, hangs = mine.began, mine.frozen
        if not world.linked(host.name, other.name):
            return

        def arrive() -> None:
            if other.agent is agent and agent is not None and agent.process.runs:
                heard.receive(sent, echo, (_beats(other).began, began), self.now, hangs=hangs)

        late = world.late.get(host.name, 0.0) + world.late.get(other.name, 0.0)
        if late < _AT_ONCE_SECONDS:
            arrive()
        else:
            world.kernel.after(late, arrive)

    def _watch(self, host: Host) -> None:
        if host.agent is None or not host.agent.process.runs:
            return
        self.sender = host
        before = host.agent.here.silent.value
        host.agent.signs.step()
        self.sender = None
        if host.agent is not None and host.agent.here.silent.value != before:
            self.world.touch()

    def _answers(self, node: Node, seconds: float) -> bool:
        """Ask a server for an answer to SSLRequest, in a task of an agent."""
        return self._reaches(node, seconds, packets=2)

    def _lets_in(self, node: Node, seconds: float) -> bool:
        """Try to log in to a server, in a task of an agent; one that starts answers with a refusal."""
        return self._reaches(node, seconds, packets=8)

    def _reaches(self, node: Node, seconds: float, *, packets: int) -> bool:
        world, asker, host = self.world, self.world.current_host(), self.world.hosts[node.name]
        late = packets * (world.late.get(asker.name, 0.0) + world.late.get(host.name, 0.0))
        reached = host.on and world.linked_both(asker.name, host.name)
        if reached and host.server is None:
            return False  # the host refuses the connection at once
        running = host.server
        if late >= seconds or not reached or running is None or not running.process.runs:
            world.kernel.sleep(seconds)
            return False
        world.kernel.sleep(late + 0.002)
        return True
