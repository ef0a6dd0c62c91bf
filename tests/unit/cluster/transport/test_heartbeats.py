"""Heartbeats over real sockets on loopback addresses."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.unit.eventually import eventually

from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.decision.liveness import links
from pgpool_cluster.decision.liveness.heartbeat import Echo, Heartbeat, ProcessState
from pgpool_cluster.decision.liveness.links import BEAT_SECONDS, LinkState
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.transport import datagram, heartbeats
from pgpool_cluster.transport.heartbeats import Heartbeats, News

OLD, NEW, STRANGE = "a" * 64, "b" * 64, "c" * 64
SECONDS = 10.0


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.11", 0))
        return int(probe.getsockname()[1])


def cluster_of(text: str) -> Cluster:
    return parse(f"nodes: {{{text}}}", "cluster.yml", "pg1")


TWO = cluster_of("pg1: 127.0.0.11, pg2: 127.0.0.12")
THREE = cluster_of("pg1: 127.0.0.11, pg2: 127.0.0.12, pg3: 127.0.0.13")


class Agents:
    """Agents on one machine, each at its own loopback address."""

    def __init__(self) -> None:
        self.port = free_port()
        self.stack = contextlib.ExitStack()

    def start(self, name: str, cluster: Cluster = TWO, *keys: str) -> Heartbeats:
        beats = Heartbeats(cluster, cluster.named(name), port=self.port)
        beats.use_keys(keys or (NEW,))
        beats.publish(Postgresql.UP, time.monotonic())
        self.stack.enter_context(beats.running())
        return beats


@pytest.fixture
def agents() -> Iterator[Agents]:
    found = Agents()
    with found.stack:
        yield found
    assert not [one for one in threading.enumerate() if one.name == "heartbeats"], "every thread ends"


def state(beats: Heartbeats, name: str) -> LinkState:
    return beats.links()[name].state


def linked(*pairs: tuple[Heartbeats, str]) -> bool:
    return eventually(lambda: all(state(beats, name) is LinkState.UP for beats, name in pairs))


def linked_anew(*pairs: tuple[Heartbeats, str]) -> bool:
    """Return whether each link is up by a heartbeat that was sent after this call."""
    since = time.monotonic() + 2 * BEAT_SECONDS
    return eventually(lambda: all(beats.links()[name].heard > since for beats, name in pairs)) and linked(*pairs)


def test_two_agents_are_linked(agents: Agents) -> None:
    pg1, pg2 = agents.start("pg1"), agents.start("pg2")
    assert linked((pg1, "pg2"), (pg2, "pg1"))
    assert eventually(lambda: News("heartbeats with pg2 work in both directions") in pg1.news())
    assert (pg1.unbound, pg1.refused("pg2")) == ("", "")


def test_ipv6(agents: Agents) -> None:
    """The only loopback address of IPv6 is one address, so the agent exchanges heartbeats with a socket."""
    cluster = cluster_of("pg1: '::1', pg2: 'fd00::2'")
    pg1 = agents.start("pg1", cluster)
    assert eventually(lambda: not pg1.unbound), pg1.unbound


def test_the_death_of_postgresql_is_sent_at_once(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    pg1, pg2 = agents.start("pg1"), agents.start("pg2")
    assert linked((pg1, "pg2"), (pg2, "pg1"))
    woken = threading.Event()
    pg2.news()
    pg2.on_news = woken.set
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 60.0)  # the next round is later than the test waits
    monkeypatch.setattr(links, "DEAD_SECONDS", 60.0)
    monkeypatch.setattr(links, "ECHO_SECONDS", 60.0)
    for _ in range(2):
        pg1.publish(Postgresql.UP, time.monotonic())
        pg1.note_server(ProcessState.RUNS)
        assert eventually(lambda: pg2._remotes["127.0.0.11"].told is Postgresql.UP)
        pg2.news()
        pg1.note_server(ProcessState.DIED)
        assert eventually(lambda: News("PostgreSQL of pg1 is down, by its heartbeat", bad=True) in pg2.news())
    assert woken.wait(SECONDS)


def test_a_server_that_hangs_is_known_to_the_others_until_it_answers_again(agents: Agents) -> None:
    pg1, pg2 = agents.start("pg1"), agents.start("pg2")
    assert linked((pg1, "pg2"), (pg2, "pg1"))
    assert (pg2.hanging(), pg1.frozen) == ({}, False)
    began = time.monotonic()
    pg1.note_server(ProcessState.FROZEN)
    assert pg1.frozen
    assert eventually(lambda: "pg1" in pg2.hanging())
    since = pg2.hanging()["pg1"].since
    assert since >= began
    assert linked_anew((pg2, "pg1"))
    assert pg2.hanging()["pg1"].since == since, "the time of the first such heartbeat"
    pg1.note_server(ProcessState.RUNS)
    pg1.publish(Postgresql.UP, time.monotonic())
    assert not pg1.frozen
    assert eventually(lambda: pg2.hanging() == {})


def test_facts_that_were_collected_earlier_do_not_replace_later_ones(agents: Agents) -> None:
    pg1 = agents.start("pg1")
    now = time.monotonic()
    pg1.publish(Postgresql.STOPPED, now + 1)
    pg1.publish(Postgresql.UP, now)
    assert pg1.postgresql is Postgresql.STOPPED


def test_an_agent_that_ends_is_lost_and_linked_again_when_it_returns(agents: Agents) -> None:
    pg1 = agents.start("pg1")
    other = Heartbeats(TWO, TWO.named("pg2"), port=agents.port)
    other.use_keys([NEW])
    with other.running():
        assert linked((pg1, "pg2"))
    assert eventually(lambda: state(pg1, "pg2") is LinkState.LOST)
    assert eventually(lambda: any("link with pg2 is lost" in one.text and one.bad for one in pg1.news()))
    assert linked((agents.start("pg2"), "pg1"), (pg1, "pg2"))


def test_another_key_counts_for_nothing_and_is_reported(agents: Agents) -> None:
    pg1, pg2 = agents.start("pg1"), agents.start("pg2", TWO, STRANGE)
    assert eventually(lambda: "another key" in pg1.refused("pg2") and "another key" in pg2.refused("pg1"))
    time.sleep(0.5)
    assert {state(pg1, "pg2"), state(pg2, "pg1")} == {LinkState.UNKNOWN}


def test_a_link_survives_a_change_of_the_key_on_one_node_after_the_other(agents: Agents) -> None:
    pg1, pg2 = agents.start("pg1", TWO, OLD), agents.start("pg2", TWO, OLD)
    assert linked((pg1, "pg2"), (pg2, "pg1"))
    for changes in ({"pg1": [NEW, OLD]}, {"pg2": [NEW, OLD]}, {"pg1": [NEW], "pg2": [NEW]}):
        for beats in (pg1, pg2):
            beats.use_keys(changes.get(beats.me.name, [key.hex() for key in beats._keys]))
        assert linked_anew((pg1, "pg2"), (pg2, "pg1")), "a heartbeat since the change counts"


def test_the_former_key_is_refused_once_a_node_has_the_new_one(agents: Agents) -> None:
    pg1, pg2 = agents.start("pg1", TWO, NEW, OLD), agents.start("pg2")
    assert linked((pg1, "pg2"), (pg2, "pg1"))
    pg2.use_keys([OLD])
    assert eventually(lambda: "another key" in pg1.refused("pg2"))
    assert eventually(lambda: state(pg1, "pg2") is LinkState.LOST)


def test_without_a_key_nothing_is_sent(agents: Agents) -> None:
    beats = Heartbeats(TWO, TWO.named("pg1"), port=agents.port)
    assert not beats.active
    with beats.running(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.12", agents.port))
        other.settimeout(0.6)
        with pytest.raises(TimeoutError):
            other.recv(9)
    beats.use_keys([NEW])
    assert beats.active


def test_datagrams_that_are_no_heartbeats_of_their_address_count_for_nothing(agents: Agents) -> None:
    """A reflected datagram, one of another node, one for another node, one that is too long, and noise."""
    key = bytes.fromhex(NEW)
    pg1 = agents.start("pg1", THREE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.12", agents.port))
        other.settimeout(SECONDS)
        received = other.recv(2000)
        beat = datagram.decode(received, key)
        assert beat is not None
        good = Heartbeat("pg2", "pg1", 9, 1, (Echo(beat.incarnation, beat.sequence),))
        wrong = [
            received, b"", b"x" * 100, b"x" * 3000, datagram.encode(good, bytes(32)),
            datagram.encode(replace(good, sender="pg3"), key), datagram.encode(replace(good, receiver="pg3"), key),
            datagram.encode(replace(good, sender="pg1", receiver="pg2"), key),
        ]  # fmt: skip
        for data in wrong:
            other.sendto(data, ("127.0.0.11", agents.port))
        assert eventually(lambda: "it is from 'pg1' to 'pg2'" in pg1.refused("pg2"))
        assert state(pg1, "pg2") is LinkState.UNKNOWN
        assert state(pg1, "pg3") is LinkState.UNKNOWN
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.99", agents.port))
            stranger.sendto(datagram.encode(good, key), ("127.0.0.11", agents.port))
        beat = datagram.decode(other.recv(2000), key)
        assert beat is not None
        good = replace(good, echoes=(Echo(beat.incarnation, beat.sequence),))
        other.sendto(datagram.encode(good, key), ("127.0.0.11", agents.port))
        assert linked((pg1, "pg2"))


def test_a_port_in_use_is_reported_once_and_retried(agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_BIND_PAUSE_SECONDS", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.11", agents.port))
        pg1 = agents.start("pg1")
        assert eventually(lambda: "in use" in pg1.unbound)
        time.sleep(0.3)
        (news,) = pg1.news()
        assert "cannot exchange heartbeats at 127.0.0.11" in news.text
        assert news.bad
    assert eventually(lambda: pg1.unbound == "")
    assert linked((agents.start("pg2"), "pg1"), (pg1, "pg2"))


def test_a_new_cluster_yml_keeps_links_and_adds_nodes(agents: Agents) -> None:
    pg1, pg2 = agents.start("pg1"), agents.start("pg2")
    assert linked((pg1, "pg2"), (pg2, "pg1"))
    pg1.news()
    pg3 = agents.start("pg3", THREE)
    for beats in (pg1, pg2):
        beats.renew(THREE, THREE.named(beats.me.name))
    assert linked((pg1, "pg2"), (pg1, "pg3"), (pg2, "pg3"), (pg3, "pg1"), (pg3, "pg2"))
    pg1.renew(TWO, TWO.named("pg1"))
    assert set(pg1.links()) == {"pg2"}


def test_the_only_node_of_a_cluster_opens_no_socket(agents: Agents) -> None:
    alone = cluster_of("pg1: 127.0.0.11")
    pg1 = agents.start("pg1", alone)
    time.sleep(0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.11", agents.port))
    pg1.renew(TWO, TWO.named("pg1"))
    assert linked((agents.start("pg2"), "pg1"), (pg1, "pg2"))
    assert not [one for one in pg1.news() if "cannot exchange" in one.text]


def test_a_new_address_of_this_node_is_used(agents: Agents) -> None:
    moved = cluster_of("pg1: 127.0.0.21, pg2: 127.0.0.12")
    pg1, pg2 = agents.start("pg1"), agents.start("pg2")
    assert linked((pg1, "pg2"))
    for beats in (pg1, pg2):
        beats.renew(moved, moved.named(beats.me.name))
    assert linked_anew((pg1, "pg2"), (pg2, "pg1"))


def test_a_node_of_an_older_package_is_told_apart(agents: Agents) -> None:
    pg1 = agents.start("pg1", THREE)
    pg1.note_support({"pg2": False, "pg3": True})
    assert {name: link.state for name, link in pg1.links().items()} == {
        "pg2": LinkState.UNSUPPORTED, "pg3": LinkState.NEVER,
    }  # fmt: skip
