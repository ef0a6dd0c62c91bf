"""A node is silent once its link is lost and its server does not answer; the agent learns that at once."""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER, away, crashed, healthy, primary, seen

from pgpool_cluster.agent import contact
from pgpool_cluster.agent.contact import Contact
from pgpool_cluster.agent.life_signs import LifeSigns
from pgpool_cluster.copying import copy_source
from pgpool_cluster.decision import fencing
from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.decision.liveness import silence
from pgpool_cluster.decision.liveness.links import DEAD_SECONDS, Link, LinkState
from pgpool_cluster.decision.liveness.silence import PROBE_AFTER_SECONDS, Hanging, Probe, is_silent, needs_probe
from pgpool_cluster.decision.virtual_address import AWAY_SECONDS, GONE_SECONDS
from pgpool_cluster.definition.cluster import Node, Service
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground import log
from pgpool_cluster.node.under_way import Published
from pgpool_cluster.postgresql import knock

LOST = Link("pg1", LinkState.LOST, 100.0)
NEVER = Link("pg1", LinkState.NEVER, 100.0)
LINKED = Link("pg1", LinkState.UP, 0.0, heard=101.0)
HANGS = Hanging(100.0)
UNKNOWN = Link("pg1", LinkState.UNKNOWN, 100.0)


# The rule


@pytest.mark.parametrize(
    ("link", "now", "needed"),
    [
        (Link("pg1", LinkState.UP, 0.0, heard=100.0), 100 + PROBE_AFTER_SECONDS - 0.01, False),
        (Link("pg1", LinkState.UP, 0.0, heard=100.0), 100.1 + PROBE_AFTER_SECONDS, True),
        # Heartbeats arrive, but none of this node's own arrives there.
        (Link("pg1", LinkState.UP, 0.0, heard=100.0, ends=101.0), 100.3, False),
        (Link("pg1", LinkState.UP, 0.0, heard=100.0, ends=101.0), 100.45, True),
        (LOST, 100.0, True), (NEVER, 100.0, True),
        (Link("pg1", LinkState.UNSUPPORTED, 0.0), 100.0, False), (UNKNOWN, 159.9, False), (UNKNOWN, 160.0, True),
    ],
)  # fmt: skip
def test_a_server_is_probed_before_its_link_is_lost(link: Link, now: float, *, needed: bool) -> None:
    assert needs_probe(link, now) is needed


@pytest.mark.parametrize(
    ("link", "probe", "now", "silent"),
    [
        pytest.param(LOST, None, 101.0, False, id="no probe has ended"),
        pytest.param(LOST, Probe(100.0, answered=False), 101.0, True, id="neither link nor answer"),
        pytest.param(LOST, Probe(100.0, answered=True), 101.0, False, id="only its agent is gone"),
        pytest.param(LOST, Probe(100 - DEAD_SECONDS, answered=False), 101.0, False, id="a probe of another time"),
        pytest.param(NEVER, Probe(100.1, answered=False), 100 + DEAD_SECONDS - 0.1, False, id="it may yet be heard"),
        pytest.param(NEVER, Probe(100.1, answered=False), 100 + DEAD_SECONDS, True, id="it was never heard"),
        pytest.param(UNKNOWN, Probe(160.0, answered=False), 159.9, False, id="its host may be booting"),
        pytest.param(UNKNOWN, Probe(160.0, answered=False), 160.0, True, id="its host stays away"),
        pytest.param(UNKNOWN, Probe(160.0, answered=True), 160.0, False, id="only its agent stays away"),
        pytest.param(UNKNOWN, Probe(159.9, answered=False), 160.5, False, id="a probe while it may have been booting"),
        pytest.param(replace(LOST, state=LinkState.UP), Probe(100.0, answered=False), 101.0, False, id="linked"),
        pytest.param(
            replace(LOST, state=LinkState.UNSUPPORTED), Probe(100.0, answered=False), 101.0, False, id="older"
        ),
    ],
)
def test_a_silent_node_has_neither_a_link_nor_a_server_that_answers(
    link: Link, probe: Probe | None, now: float, *, silent: bool
) -> None:
    assert is_silent(link, probe, now, has_server=True) is silent


def test_a_witness_is_silent_without_a_link() -> None:
    assert is_silent(LOST, None, 100.0, has_server=False)
    assert not is_silent(NEVER, None, 100.0, has_server=False)
    assert not is_silent(UNKNOWN, None, 159.9, has_server=False)
    assert is_silent(UNKNOWN, None, 160.0, has_server=False)


def test_a_server_that_hangs_is_probed_although_its_agent_is_linked() -> None:
    assert not needs_probe(LINKED, 101.0)
    assert needs_probe(LINKED, 101.0, HANGS)


@pytest.mark.parametrize(
    ("probe", "silent"),
    [
        pytest.param(None, False, id="no log-in has been tried"),
        pytest.param(Probe(99.9, answered=False), False, id="a probe from before it hung"),
        pytest.param(Probe(100.0, answered=True), False, id="slow: others can log in"),
        pytest.param(Probe(100.0, answered=False), True, id="no other node can log in"),
    ],
)
def test_a_server_that_hangs_is_silent_once_it_answers_no_log_in(probe: Probe | None, *, silent: bool) -> None:
    assert is_silent(LINKED, probe, 101.0, has_server=True, hanging=HANGS) is silent
    assert not is_silent(LINKED, probe, 101.0, has_server=True), "it no longer hangs"


def test_with_a_lost_link_the_last_word_of_an_agent_does_not_count() -> None:
    before = Probe(LOST.since - DEAD_SECONDS, answered=False)
    assert not is_silent(LOST, before, 101.0, has_server=True, hanging=Hanging(0.0))


# The watch


class Watching:
    """A node pg2 of three, whose links and whose view of the other servers a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = time.monotonic()
        self.links = {name: Link(name, LinkState.UP, now, heard=math.inf) for name in ("pg1", "pg3")}
        self.answer = False
        self.hanging: dict[str, Hanging] = {}
        self.probed: list[str] = []
        self.logins: list[tuple[str, float]] = []
        self.dropped: list[str] = []
        self.woken = 0
        self.said: list[str] = []
        for write in ("info", "warning"):
            monkeypatch.setattr(log, write, self.said.append)
        beats = SimpleNamespace(links=lambda: dict(self.links), hanging=lambda: dict(self.hanging))
        peers = SimpleNamespace(drop=lambda name, _: self.dropped.append(name))
        self.silent: Published[frozenset[str]] = Published(frozenset())
        here: Any = SimpleNamespace(
            beats=beats, peers=peers, cluster=CLUSTER, silent=self.silent, forget_looks=lambda: None
        )
        self.watch = LifeSigns(here, self._wake, self._knock, self._log_in)

    def _wake(self) -> None:
        self.woken += 1

    def _knock(self, node: Node, _: float) -> bool:
        self.probed.append(node.name)
        return self.answer

    def _log_in(self, node: Node, seconds: float) -> bool:
        self.logins.append((node.name, seconds))
        return self.answer

    def lose(self, name: str) -> None:
        self.links[name] = Link(name, LinkState.LOST, time.monotonic())

    def step(self) -> None:
        """Run one step, and wait for its probes."""
        self.watch.step()
        for thread in threading.enumerate():
            if thread.name.startswith("probe of"):
                thread.join()


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(monkeypatch)


def test_a_lost_node_is_probed_once_and_then_published(watching: Watching) -> None:
    watching.step()
    assert (watching.probed, watching.silent.value) == ([], frozenset())
    watching.lose("pg1")
    watching.step()
    watching.step()
    assert watching.probed == ["pg1"]
    assert watching.silent.value == {"pg1"}
    assert (watching.dropped, watching.woken) == (["pg1"], 1), "requests to it must not wait, and the agent decides now"
    assert watching.said == ["pg1 shows no sign of life"]


def test_a_node_whose_server_answers_is_not_silent(watching: Watching) -> None:
    watching.answer = True
    watching.lose("pg1")
    watching.step()
    watching.step()
    assert (watching.silent.value, watching.woken) == (frozenset(), 0)


def test_nodes_that_stay_away_after_a_power_failure_are_published(watching: Watching) -> None:
    booted = time.monotonic() - silence.BOOT_SECONDS
    watching.links["pg1"] = Link("pg1", LinkState.UNKNOWN, booted)
    watching.links["pg3"] = Link("pg3", LinkState.UNKNOWN, booted + 30)
    watching.step()
    watching.step()
    assert (watching.probed, watching.silent.value) == (["pg1"], frozenset({"pg1"}))


def test_a_node_that_is_back_is_published_as_well(watching: Watching) -> None:
    watching.lose("pg1")
    watching.step()
    watching.step()
    watching.links["pg1"] = Link("pg1", LinkState.UP, time.monotonic(), heard=math.inf)
    watching.step()
    assert (watching.silent.value, watching.woken) == (frozenset(), 2)
    assert watching.said[-1] == "pg1 shows signs of life again"


def test_a_server_that_hangs_and_answers_no_log_in_is_published_but_its_agent_is_still_asked(
    watching: Watching,
) -> None:
    watching.hanging["pg1"] = Hanging(time.monotonic())
    watching.step()
    watching.step()
    assert (watching.probed, watching.logins) == ([], [("pg1", 2.0)]), (
        "a stopped server accepts connections, but no log-in"
    )
    assert watching.silent.value == {"pg1"}
    assert (watching.dropped, watching.woken) == ([], 1)
    watching.hanging.clear()
    watching.step()
    assert (watching.silent.value, watching.woken) == (frozenset(), 2)


def test_a_server_that_is_only_slow_is_not_silent(watching: Watching) -> None:
    watching.answer = True
    watching.hanging["pg1"] = Hanging(time.monotonic())
    watching.step()
    watching.step()
    assert (len(watching.logins), watching.silent.value) == (1, frozenset())


@pytest.mark.parametrize(
    ("refusal", "answers"),
    [
        ("", True),
        ("FATAL:  sorry, too many clients already", True),
        ("FATAL:  the database system is starting up", True),
        ("timeout expired", False),
        ("connection refused", False),
    ],
)
def test_even_a_refused_log_in_is_a_sign_of_life(
    refusal: str, *, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    def refused(_: Node, role: Role, *, until: float) -> str:
        assert role is Role.CHECK, "a witness knows no other role"
        limits.append(until - time.monotonic())
        return refusal

    monkeypatch.setattr(copy_source, "refusal", refused)
    assert copy_source.answers_login(CLUSTER.nodes[0], 2.0) is answers
    assert limits == [pytest.approx(2.0, abs=0.5)]


# The probe, with real sockets


@pytest.fixture
def port() -> Iterator[tuple[int, socket.socket]]:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        yield door.getsockname()[1], door


def node(port: int) -> Node:
    return Node(0, "pg1", "127.0.0.1", port, 1.0, frozenset(Service))


@pytest.mark.parametrize(("said", "alive"), [(b"S", True), (b"N", True), (b"H", False), (b"", False)])
def test_a_server_answers_whether_it_supports_tls(port: tuple[int, socket.socket], said: bytes, *, alive: bool) -> None:
    number, door = port

    def serve() -> None:
        connection, _ = door.accept()
        with connection:
            assert connection.recv(8) == knock.SSL_REQUEST
            connection.sendall(said)

    thread = threading.Thread(target=serve)
    thread.start()
    assert knock.answers(node(number), 5.0) is alive
    thread.join()


def test_a_server_that_is_stopped_accepts_but_does_not_answer(port: tuple[int, socket.socket]) -> None:
    began = time.monotonic()
    assert not knock.answers(node(port[0]), 0.2)
    assert time.monotonic() - began < 5.0


def test_a_port_without_a_server_is_no_sign_of_life(port: tuple[int, socket.socket]) -> None:
    number, door = port
    door.close()
    assert not knock.answers(node(number), 5.0)


# The memory of the loop


def test_the_time_alone_begins_with_the_last_contact_and_ends_with_the_next() -> None:
    pg1, pg2, pg3 = healthy()
    found = Contact()
    lonely = seen(replace(pg1, silent=frozenset({"pg2", "pg3"})), away("pg2"), away("pg3"))
    found.note(CLUSTER, lonely, "pg1", 50.0)
    assert found.alone_seconds(50.0) == pytest.approx(DEAD_SECONDS)
    found.note(CLUSTER, lonely, "pg1", 51.0)
    assert found.alone_seconds(51.0) == pytest.approx(DEAD_SECONDS + 1)
    assert fencing.is_due(CLUSTER, found.alone_seconds(51.0))
    found.note(CLUSTER, seen(pg1, pg2, pg3), "pg1", 52.0)
    assert found.alone_seconds(52.0) == 0.0


def test_a_node_that_answers_requests_is_a_contact_although_its_link_is_lost() -> None:
    pg1, pg2, pg3 = healthy()
    found = Contact()
    found.note(CLUSTER, seen(replace(pg1, silent=frozenset({"pg2", "pg3"})), pg2, pg3), "pg1", 50.0)
    assert found.alone_seconds(60.0) == 0.0


def test_a_witness_that_knows_of_a_later_term_is_no_contact_of_a_primary_that_other_nodes_do_not_answer() -> None:
    """The primary may have been replaced by the node that does not answer it, with the witness's vote."""
    cluster = replace(CLUSTER, nodes=(*CLUSTER.nodes[:2], replace(CLUSTER.nodes[2], runs=frozenset({Service.PGPOOL}))))
    pg1, pg2, _ = healthy()
    voted = NodeFacts("pg3", term=2)
    found = Contact()
    found.note(cluster, seen(pg1, away("pg2"), replace(voted, term=1)), "pg1", 50.0)
    assert found.alone_seconds(60.0) == 0.0
    found.note(cluster, seen(pg1, pg2, voted), "pg1", 50.0)
    assert found.alone_seconds(60.0) == 0.0, "a witness alone stops no primary"
    found.note(cluster, seen(pg1, away("pg2"), voted), "pg1", 50.0)
    assert fencing.is_due(cluster, found.alone_seconds(52.0))
    found.note(cluster, seen(replace(pg1, led=2), away("pg2"), voted), "pg1", 53.0)
    assert found.alone_seconds(60.0) == 0.0, "the later term is its own"


def test_a_crashed_primary_yields_for_a_moment() -> None:
    pg1, pg2, pg3 = healthy()
    found = Contact()
    dead = seen(crashed(pg1), pg2, pg3)
    found.note(CLUSTER, dead, "pg1", 50.0)
    found.note(CLUSTER, dead, "pg1", 51.0)
    assert found.yields(54.9)
    assert not found.yields(55.0)
    found.note(CLUSTER, seen(pg1, pg2, pg3), "pg1", 52.0)
    assert not found.yields(52.0)


def test_a_crashed_standby_restarts_at_once() -> None:
    pg1, pg2, pg3 = healthy()
    found = Contact()
    found.note(CLUSTER, seen(pg1, crashed(pg2), pg3), "pg2", 50.0)
    assert not found.yields(50.0)


def test_a_node_is_gone_once_a_majority_has_had_no_sign_of_life_for_long() -> None:
    pg1, pg2, pg3 = (replace(one, silent=frozenset({"pg3"}) - {one.node}) for one in healthy())
    found = Contact()
    found.note(CLUSTER, seen(pg1, replace(pg2, silent=frozenset()), away("pg3")), "pg1", 40.0)
    assert found.gone(60.0) == frozenset(), "one node is no majority"
    found.note(CLUSTER, seen(pg1, pg2, away("pg3")), "pg1", 50.0)
    found.note(CLUSTER, seen(pg1, pg2, away("pg3")), "pg1", 51.0)
    since = 50.0 - DEAD_SECONDS
    assert found.gone(since + GONE_SECONDS - 0.01) == frozenset()
    assert found.gone(since + GONE_SECONDS) == frozenset({"pg3"})
    found.note(CLUSTER, seen(pg1, pg2, pg3), "pg1", 52.0)
    found.note(CLUSTER, seen(pg1, pg2, away("pg3")), "pg1", 53.0)
    assert found.gone(53.0) == frozenset(), "it was there in the meantime"


def test_a_pgpool_that_restarts_is_not_away_for_long() -> None:
    pg1, pg2, pg3 = healthy()
    found = Contact()
    found.note(CLUSTER, seen(replace(pg1, pgpool=None), pg2, pg3), "pg1", 50.0)
    assert not found.pool_away(50.0 + AWAY_SECONDS - 0.01)
    assert found.pool_away(50.0 + AWAY_SECONDS)
    found.note(CLUSTER, seen(pg1, pg2, pg3), "pg1", 51.0)
    assert not found.pool_away(60.0)


def test_after_a_loss_rounds_follow_each_other_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "time", SimpleNamespace(monotonic=lambda: 50.0))
    pg1, pg2, pg3 = healthy()
    found = Contact()
    found.note(CLUSTER, seen(pg1, pg2, pg3), "pg1", 50.0)
    assert found.pause(2.0) == 2.0
    found.note(CLUSTER, seen(replace(pg1, silent=frozenset({"pg3"})), pg2, away("pg3")), "pg1", 50.0)
    assert found.pause(2.0) == contact._HASTE_PAUSE_SECONDS
    monkeypatch.setattr(contact, "time", SimpleNamespace(monotonic=lambda: 61.0))
    assert found.pause(2.0) == 2.0, "a node that is away for hours does not keep the others busy"


def test_after_a_change_of_the_primary_the_virtual_address_follows_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "time", SimpleNamespace(monotonic=lambda: 50.0))
    virtual = replace(CLUSTER, virtual_ip=ipaddress.ip_interface("10.0.0.50/24"))
    pg1, pg2, pg3 = healthy()
    after = seen(replace(pg1, term=2), primary("pg2", term=2, timeline=2), pg3)
    for cluster, pause in ((CLUSTER, 2.0), (virtual, contact._HASTE_PAUSE_SECONDS)):
        found = Contact()
        found.note(cluster, seen(pg1, pg2, pg3), "pg3", 50.0)
        assert found.pause(2.0) == 2.0
        found.note(cluster, after, "pg3", 50.0)
        assert found.pause(2.0) == pause
