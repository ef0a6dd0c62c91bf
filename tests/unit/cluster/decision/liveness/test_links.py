"""Links over a virtual clock and a virtual network: one direction that fails, replays, restarts and old packages."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.decision.liveness.heartbeat import Echo, Heartbeat
from pgpool_cluster.decision.liveness.links import (
    BEAT_SECONDS,
    DEAD_SECONDS,
    ECHO_SECONDS,
    LinkChange,
    Links,
    LinkState,
    unheard,
)

NAMES = ("pg1", "pg2", "pg3")
STEP = 0.01
Way = tuple[str, str]


@dataclass
class Net:
    """Agents that beat at their own phases, and a network that delays and loses datagrams."""

    now: float = 100.0
    delay: Callable[[Way], float] = lambda _: 0.001
    cut: set[Way] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    sent: list[tuple[float, Heartbeat]] = field(default_factory=list)
    """All datagrams, for replays."""

    def __post_init__(self) -> None:
        self.agents: dict[str, Links] = {}
        self._next: dict[str, float] = {}
        self._flying: list[tuple[float, Heartbeat]] = []
        for number, name in enumerate(NAMES):
            self.start(name, number + 1)
            self._next[name] += number * 0.07

    def start(self, name: str, incarnation: int) -> None:
        self.agents[name] = Links(name, [one for one in NAMES if one != name], incarnation, self.now)
        self._next[name] = self.now

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            for name in set(NAMES) - self.down:
                if self.now >= self._next[name]:
                    self._next[name] += BEAT_SECONDS
                    for beat in self.agents[name].round(Postgresql.UP, self.now):
                        self.send(beat)
            arrived = [beat for at, beat in self._flying if at <= self.now]
            self._flying = [(at, beat) for at, beat in self._flying if at > self.now]
            for beat in arrived:
                if beat.receiver not in self.down:
                    self.agents[beat.receiver].receive(beat, self.now)

    def send(self, beat: Heartbeat) -> None:
        way = (beat.sender, beat.receiver)
        self.sent.append((self.now, beat))
        if way not in self.cut:
            self._flying.append((self.now + self.delay(way), beat))

    def state(self, one: str, other: str) -> LinkState:
        return self.agents[one].of(other, self.now).state

    def lost_after(self, one: str, other: str) -> float:
        """Run until a link is lost, and return how many seconds that took."""
        began = self.now
        while self.state(one, other) is LinkState.UP and self.now < began + 10:
            self.run(STEP)
        return self.now - began


@pytest.fixture
def net() -> Net:
    found = Net()
    found.run(2.0)
    return found


def test_every_link_is_up_within_three_rounds_and_stays_up() -> None:
    net = Net()
    net.run(3 * BEAT_SECONDS)
    ways = [(one, other) for one in NAMES for other in NAMES if one != other]
    assert {net.state(*way) for way in ways} == {LinkState.UP}
    assert net.agents["pg1"].due == math.inf
    assert net.agents["pg1"].changes(net.now) == (LinkChange("pg2", True), LinkChange("pg3", True))
    assert net.now < net.agents["pg1"].due <= net.now + DEAD_SECONDS
    net.run(20)
    assert net.agents["pg1"].changes(net.now) == ()
    assert net.agents["pg1"].of("pg2", net.now).since < 101
    assert {beat.postgresql for _, beat in net.sent} == {Postgresql.UP}


def test_a_node_that_falls_silent_is_lost_by_each_of_the_others_in_time(net: Net) -> None:
    net.down.add("pg3")
    fell = net.now
    net.agents["pg1"].changes(net.now)
    assert DEAD_SECONDS - BEAT_SECONDS <= net.lost_after("pg1", "pg3") <= DEAD_SECONDS + 2 * STEP
    assert net.agents["pg1"].changes(net.now) == (LinkChange("pg3", False),)
    net.run(0.5)
    link = net.agents["pg1"].of("pg3", net.now)
    assert fell + DEAD_SECONDS - BEAT_SECONDS - STEP <= link.since <= fell + DEAD_SECONDS + STEP
    assert net.state("pg1", "pg2") is LinkState.UP
    net.down.clear()
    net.run(1.0)
    assert net.state("pg1", "pg3") is LinkState.UP
    assert net.agents["pg1"].of("pg3", net.now).since > link.since


def test_a_cut_in_one_direction_is_seen_by_both_sides_within_two_seconds(net: Net) -> None:
    net.cut.add(("pg1", "pg2"))
    assert net.lost_after("pg2", "pg1") <= DEAD_SECONDS + 2 * STEP
    net.run(ECHO_SECONDS - DEAD_SECONDS + STEP)
    assert net.state("pg1", "pg2") is LinkState.LOST, "datagrams still arrive, but prove nothing"
    assert net.state("pg1", "pg2") is LinkState.LOST
    assert net.agents["pg1"].of("pg2", net.now).heard >= net.now - BEAT_SECONDS - 2 * STEP
    net.run(30)
    assert net.state("pg1", "pg2") is LinkState.LOST
    net.cut.clear()
    net.run(1.0)
    assert {net.state("pg1", "pg2"), net.state("pg2", "pg1")} == {LinkState.UP}


def test_latency_and_loss_do_not_lose_a_link(net: Net) -> None:
    """200 ms in each direction, and 5 % of the datagrams are lost, for two minutes."""
    chance = random.Random(7)
    net.delay = lambda _: 0.2 if chance.random() > 0.05 else 1e9
    for _ in range(120):
        net.run(1.0)
        assert net.state("pg1", "pg2") is LinkState.UP, net.now


def test_reordered_and_repeated_datagrams_change_nothing(net: Net) -> None:
    chance = random.Random(7)
    net.delay = lambda _: chance.uniform(0.0, 0.5)
    for _ in range(20):
        net.run(1.0)
        assert net.state("pg1", "pg2") is LinkState.UP
    last = net.sent[-1][1]
    agent = net.agents[last.receiver]
    net.run(1.0)
    before = agent.of(last.sender, net.now)
    assert not agent.receive(last, net.now), "a repetition"
    assert agent.of(last.sender, net.now) == before


def test_replays_of_all_datagrams_keep_no_link_up(net: Net) -> None:
    old = [beat for _, beat in net.sent if beat.sender == "pg2"]
    net.down.add("pg2")
    for _ in range(30):
        net.run(BEAT_SECONDS)
        for beat in old:
            net.agents[beat.receiver].receive(beat, net.now)
    assert net.state("pg1", "pg2") is LinkState.LOST
    assert net.state("pg3", "pg2") is LinkState.LOST


def test_replays_of_a_former_incarnation_do_not_harm_a_link(net: Net) -> None:
    old = [beat for _, beat in net.sent if beat.sender == "pg2"]
    net.start("pg2", 22)
    net.run(1.0)
    for _ in range(100):
        net.run(BEAT_SECONDS)
        for beat in old[-4:]:
            net.agents[beat.receiver].receive(beat, net.now)
        assert net.state("pg1", "pg2") is LinkState.UP
    assert net.agents["pg1"].changes(net.now)[0] == LinkChange("pg2", True)


def test_a_restarted_agent_is_linked_again_at_once(net: Net) -> None:
    net.agents["pg1"].changes(net.now)
    net.start("pg2", 22)
    net.run(3 * BEAT_SECONDS)
    assert net.state("pg2", "pg1") is LinkState.UP
    net.run(3 * BEAT_SECONDS)
    assert net.agents["pg1"].changes(net.now) == (), "a restart within DEAD_SECONDS goes unnoticed"
    net.run(10)
    assert net.state("pg1", "pg2") is LinkState.UP


def test_the_first_datagrams_of_an_incarnation_count_once_echoed(net: Net) -> None:
    agent = net.agents["pg1"]
    assert not agent.receive(Heartbeat("pg2", "pg1", 22, 1), net.now)
    (beat, _) = agent.round(Postgresql.UP, net.now)
    assert beat.receiver == "pg2"
    assert Echo(22, 1) in beat.echoes, "beside the echo for the proven incarnation"
    assert len(beat.echoes) == 2
    counts = Heartbeat("pg2", "pg1", 22, 2, (Echo(1, beat.sequence),))
    assert agent.receive(counts, net.now)
    assert not agent.receive(counts, net.now), "a repetition"
    assert not agent.receive(Heartbeat("pg2", "pg1", 2, 10**6, (Echo(1, beat.sequence),)), net.now), "a retired one"


def test_an_echo_of_another_incarnation_or_of_an_old_sequence_counts_for_nothing(net: Net) -> None:
    agent = net.agents["pg1"]
    (beat, _) = agent.round(Postgresql.UP, net.now)
    for number, echo in enumerate((Echo(99, beat.sequence), Echo(1, beat.sequence + 1), Echo(1, 1), Echo(1, 0))):
        assert not agent.receive(Heartbeat("pg2", "pg1", 22, number + 1, (echo,)), net.now)
    assert not agent.receive(
        Heartbeat("pg2", "pg1", 22, 9, (Echo(1, beat.sequence),)), net.now + ECHO_SECONDS + STEP
    ), "a datagram that was delayed too long"


@pytest.mark.parametrize(
    "changes",
    [{"receiver": "pg3"}, {"sender": "pg1", "receiver": "pg2"}, {"sender": "pg9"}, {"sender": "pg1"}],
    ids=str,
)
def test_a_datagram_for_or_from_the_wrong_node_counts_for_nothing(net: Net, changes: dict[str, str]) -> None:
    agent = net.agents["pg1"]
    (beat, _) = agent.round(Postgresql.UP, net.now)
    good = Heartbeat("pg2", "pg1", 22, 1, (Echo(1, beat.sequence),))
    assert not agent.receive(replace(good, **changes), net.now)  # type: ignore[arg-type]
    assert agent.receive(good, net.now)


def test_a_late_datagram_without_a_proof_does_not_restore_a_lost_link(net: Net) -> None:
    agent = net.agents["pg1"]
    net.down.add("pg2")
    net.run(DEAD_SECONDS + 2 * STEP)
    assert net.state("pg1", "pg2") is LinkState.LOST
    assert not agent.receive(Heartbeat("pg2", "pg1", 2, 10**6), net.now)
    assert net.state("pg1", "pg2") is LinkState.LOST


def test_a_suspended_agent_finds_its_links_lost_and_old_datagrams_worthless(net: Net) -> None:
    queued = [beat for _, beat in net.sent if beat.receiver == "pg1"][-10:]
    agent = net.agents["pg1"]
    for at, beat in enumerate(queued):
        assert not agent.receive(replace(beat, sequence=10**6 + at), net.now + 5), "new, but its echo is old"
    assert {link.state for link in agent.all(net.now + 5).values()} == {LinkState.LOST}


# Nodes that send none


def test_a_node_of_an_older_package_is_not_lost() -> None:
    links = Links("pg1", ["pg2", "pg3"], 1, 0.0)
    assert links.of("pg2", 60.0).state is LinkState.UNKNOWN
    links.note_support({"pg2": False, "pg3": True, "pg9": True})
    assert links.of("pg2", 60.0).state is LinkState.UNSUPPORTED
    assert links.of("pg3", 60.0).state is LinkState.NEVER


def test_an_agent_that_took_long_to_start_expects_heartbeats_from_then_on() -> None:
    links = Links("pg1", ["pg2", "pg3"], 1, 0.0)
    links.note_support({"pg2": True})
    links.expect(30.0)
    assert [link.since for link in links.all(31.0).values()] == [30.0, 30.0]
    assert links.partners == {"pg2"}
    assert unheard(links.all(31.0)) == {"pg3"}


def test_a_node_whose_package_is_replaced_by_an_older_one_is_not_lost(net: Net) -> None:
    net.down.add("pg2")
    net.run(5)
    assert net.state("pg1", "pg2") is LinkState.LOST
    net.agents["pg1"].note_support({"pg2": False})
    assert net.state("pg1", "pg2") is LinkState.UNSUPPORTED


def test_a_new_list_of_nodes_keeps_the_links_that_remain(net: Net) -> None:
    agent = net.agents["pg1"]
    agent.renew(["pg2", "pg4"], net.now)
    assert {name: link.state for name, link in agent.all(net.now).items()} == {
        "pg2": LinkState.UP, "pg4": LinkState.UNKNOWN,
    }  # fmt: skip
    with pytest.raises(KeyError):
        agent.of("pg3", net.now)
    assert [beat.receiver for beat in agent.round(Postgresql.UP, net.now)] == ["pg2", "pg4"]
