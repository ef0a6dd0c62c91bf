"""The virtual address moves to another node only after the former holder has dropped it, whatever the network does.

Three agents with their real links, signs of life, memory and decisions run on one clock. At some moment, the network
between the holder and the others breaks, in one direction or both.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cluster.decision.test_virtual_address import MOVED, decided
from tests.unit.cluster.nodes import NAMES, healthy, primary, seen, standby

from pgpool_cluster.agent.contact import Contact
from pgpool_cluster.decision.actions import DropAddress, TakeAddress
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, Postgresql
from pgpool_cluster.decision.liveness import silence
from pgpool_cluster.decision.liveness.heartbeat import Heartbeat
from pgpool_cluster.decision.liveness.links import BEAT_SECONDS, Links
from pgpool_cluster.decision.liveness.silence import Probe
from pgpool_cluster.decision.situation import Policy

_WATCH_SECONDS, _PROBE_SECONDS = 0.1, 0.4
"""The pause of life_signs.py, and the time limit of its probes."""
_ROUND_SECONDS = 0.2
_LOOK_SECONDS = 2.5
_ROOT_SECONDS = 0.3
"""Time until root has removed the address. Putting it up takes no time here, which is the worst case."""
_CUT = 5.0
_END = 12.0


@dataclass
class Agent:
    """One agent: its links and probes, the memory of its loop, and when it had the address."""

    name: str
    links: Links
    contact: Contact = field(default_factory=Contact)
    probes: dict[str, Probe] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    round_began: float = -math.inf
    has: bool = False
    ends: float = math.inf
    """When root removes the address."""


@dataclass
class World:
    """Agents on one clock. `blocked`: the directions, as (from, to), that the network loses from _CUT on."""

    blocked: frozenset[tuple[str, str]]
    latency: float
    promoted: bool
    now: float = 0.0
    agents: dict[str, Agent] = field(init=False)
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    order: itertools.count[int] = field(default_factory=itertools.count)
    moves: list[tuple[float, str, bool]] = field(default_factory=list)
    most: int = 1

    def __post_init__(self) -> None:
        self.agents = {
            name: Agent(name, Links(name, [other for other in NAMES if other != name], number, 0.0))
            for number, name in enumerate(NAMES, 1)
        }
        self.agents["pg1"].has = True

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), do))

    def run(self) -> None:
        while self.events and self.events[0][0] < _END:
            self.now, _, do = heapq.heappop(self.events)
            do()

    def cut(self, sender: str, receiver: str) -> bool:
        return self.now >= _CUT and (sender, receiver) in self.blocked

    def answers(self, one: str, other: str) -> bool:
        """Whether a request, or a probe, from one node to another is answered."""
        return not self.cut(one, other) and not self.cut(other, one)

    # The threads of an agent

    def beat(self, agent: Agent) -> None:
        for beat in agent.links.round(Postgresql.UP, self.now):
            if not self.cut(beat.sender, beat.receiver):
                self.at(self.now + self.latency, lambda beat=beat: self.arrive(beat))  # type: ignore[misc]
        self.at(self.now + BEAT_SECONDS, lambda: self.beat(agent))

    def arrive(self, beat: Heartbeat) -> None:
        self.agents[beat.receiver].links.receive(beat, self.now)

    def watch(self, agent: Agent) -> None:
        links = agent.links.all(self.now)
        for name, link in links.items():
            due = self.now - agent.asked.get(name, -math.inf) >= _PROBE_SECONDS
            if due and silence.needs_probe(link, self.now):
                agent.asked[name] = self.now
                probe = Probe(self.now, self.answers(agent.name, name))
                ends = self.now + (0.0 if probe.answered else _PROBE_SECONDS)
                self.at(ends, lambda name=name, probe=probe: agent.probes.update({name: probe}))  # type: ignore[misc]
        found = frozenset(
            name
            for name, link in links.items()
            if silence.is_silent(link, agent.probes.get(name), self.now, has_server=True)
        )
        if found != agent.silent:
            agent.silent = found
            self.at(self.now, lambda: self.decide(agent))
        self.at(self.now + _WATCH_SECONDS, lambda: self.watch(agent))

    def loop(self, agent: Agent) -> None:
        self.decide(agent)
        self.at(self.now + _ROUND_SECONDS, lambda: self.loop(agent))

    def decide(self, agent: Agent) -> None:
        hangs = [
            name
            for name in NAMES
            if name != agent.name and name not in agent.silent and not self.answers(agent.name, name)
        ]
        agent.round_began = min(agent.round_began, self.now) if hangs and agent.round_began > 0 else self.now
        if hangs and self.now - agent.round_began < _LOOK_SECONDS:
            return  # the round waits for an answer
        agent.round_began = -math.inf
        facts = self.facts(agent)
        agent.contact.note(MOVED, facts, agent.name, self.now)
        policy = Policy(alone_seconds=agent.contact.alone_seconds(self.now), gone=agent.contact.gone(self.now))
        for action in decided(MOVED, agent.name, facts, policy):
            if isinstance(action, TakeAddress):
                self.move(agent, has=True)
            if isinstance(action, DropAddress) and agent.ends == math.inf:
                agent.ends = self.now + _ROOT_SECONDS
                self.at(agent.ends, lambda: self.move(agent, has=False))

    def facts(self, agent: Agent) -> ClusterFacts:
        nodes: list[NodeFacts] = list(healthy())
        if self.promoted and self.now >= _CUT:
            nodes = [nodes[0], primary("pg2", term=2, timeline=2), standby("pg3", "pg2", term=2, timeline=2)]
        found = [
            replace(one, silent=self.agents[one.node].silent, virtual_ip=self.agents[one.node].has)
            for one in nodes
            if one.node == agent.name or self.answers(agent.name, one.node)
        ]
        return seen(*found)

    def move(self, agent: Agent, *, has: bool) -> None:
        agent.has = has
        self.moves.append((self.now, agent.name, has))
        self.most = max(self.most, sum(one.has for one in self.agents.values()))


phases = st.floats(0.0, 0.2, allow_nan=False)
broken = st.sampled_from([
    {("pg1", "pg2"), ("pg1", "pg3"), ("pg2", "pg1"), ("pg3", "pg1")},
    {("pg1", "pg2"), ("pg1", "pg3")},
    {("pg2", "pg1"), ("pg3", "pg1")},
    {("pg1", "pg2"), ("pg3", "pg1")},
])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(broken, st.floats(0.0, 0.05), st.lists(phases, min_size=9, max_size=9))
def test_the_address_is_never_on_two_nodes_and_gone_from_a_cut_off_one_within_three_seconds(
    blocked: set[tuple[str, str]], latency: float, starts: list[float]
) -> None:
    world = World(frozenset(blocked), latency, promoted=True)
    first = iter(starts)
    for agent in world.agents.values():
        for thread in (world.beat, world.watch, world.loop):
            world.at(next(first), lambda thread=thread, agent=agent: thread(agent))  # type: ignore[misc]
    world.run()
    assert world.most == 1, world.moves
    assert [(name, has) for _, name, has in world.moves] == [("pg1", False), ("pg2", True)]
    (dropped, _, _), (taken, _, _) = world.moves
    assert _CUT < dropped < _CUT + 3.0, world.moves
    assert taken < _CUT + 4.0, world.moves


def test_nothing_moves_while_the_network_works() -> None:
    world = World(frozenset(), 0.02, promoted=False)
    for agent in world.agents.values():
        for thread in (world.beat, world.watch, world.loop):
            thread(agent)
    world.run()
    assert world.moves == []
