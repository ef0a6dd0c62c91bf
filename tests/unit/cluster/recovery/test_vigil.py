"""A host that vanishes during a recovery is declared dead by a majority, and reported alive after its return."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
from tests.unit.cluster.wired import answering
from tests.unit.eventually import eventually

from pgpool_cluster.agent.answers import Answers
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, PgpoolFacts, WatchdogState
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.recovery import two_stages, vigil
from pgpool_cluster.recovery.vigil import Vigil
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import PcpRecoveryRequest, WatchRequest

NODES = "mode: native_replication\nnodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}"
CLUSTER: Cluster = parse(NODES, "cluster.yml", "pg2")


@dataclass(slots=True)
class World:
    """The answers of other nodes, the state of this node's pgpool-II, and the effects so far."""

    here: Here
    others: dict[str, object] = field(default_factory=dict)
    leads: bool = False
    down: set[str] = field(default_factory=set)
    """Nodes that pgpool-II has detached."""
    done: list[str] = field(default_factory=list)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """The node pg2, during the recovery of pg3."""
    made = World(Here(CLUSTER, CLUSTER.named("pg2"), None, Peers.of(CLUSTER, "pg2"), Record(system=1, term=1, led=1)))

    def detach(_: Cluster, node: object) -> None:
        name = str(getattr(node, "name", node))
        if name in made.down:
            reason = f"invalid degenerate backend request, node id : 0 status: [3] {pgpool.DOWN_ALREADY}"
            raise OperationError(f"pcp_detach_node: ERROR:  {reason}", hint="")
        made.done.append(f"detach {name}")

    def tell(_: Cluster, node: object, *, alive: bool) -> None:
        made.done.append(f"{getattr(node, 'name', node)} is {'alive' if alive else 'dead'}")

    answering(monkeypatch, lambda name, _: made.others.get(name))
    monkeypatch.setattr(Peers, "drop", lambda _, name, __: made.done.append(f"drop {name}"))
    monkeypatch.setattr(units, "control", lambda *words: made.done.append(" ".join(words)))
    monkeypatch.setattr(pgpool, "tell_watchdog", tell)
    monkeypatch.setattr(pgpool, "detach", detach)
    monkeypatch.setattr(pgpool, "leads", lambda _: made.leads)
    return made


def judge(world: World, watch: Vigil, name: str) -> None:
    watch._judge(CLUSTER.named(name))


def test_a_node_that_misses_consecutive_tries_is_silent() -> None:
    assert vigil.silent({"pg1": vigil.TRIES - 1, "pg3": vigil.TRIES}) == {"pg3"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([True, False, False, True, False], {"pg1": 1}),
        ([True, False, False, False], {"pg1": 3}),
        ([False, False, False, False], {}),  # it has never answered; a firewall may block it
    ],
)
def test_missing_answers_are_counted_since_the_last_answer(
    world: World, given: list[bool], expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(vigil, "_ANSWERED_PAUSE_SECONDS", 0.001)
    over, ports = threading.Event(), []

    def answers(_: int, address: tuple[str, int]) -> bool:
        ports.append(address[1])
        if len(ports) == len(given):
            over.set()
        return given[len(ports) - 1]

    monkeypatch.setattr(vigil, "answers", answers)
    missed: dict[str, int] = {}
    Vigil(world.here)._listen(CLUSTER.named("pg1"), missed, over)
    assert missed == expected
    if expected:
        assert ports[1:3] == [5432, 22]  # other ports are tried, because a full queue is not silence


@pytest.mark.parametrize(
    ("majority", "others", "agreed"),
    [
        (2, [frozenset({"pg1"})], True),
        (2, [frozenset({"pg3"})], False),
        (2, [], False),  # this node itself is cut off
        (3, [frozenset({"pg1"}), frozenset()], False),
        (3, [frozenset({"pg1"}), frozenset({"pg1", "pg4"})], True),
    ],
)
def test_a_majority_must_find_it_silent(majority: int, others: list[frozenset[str]], *, agreed: bool) -> None:
    assert vigil.agreed(majority, "pg1", others) is agreed


def test_one_node_alone_declares_no_host_dead(world: World) -> None:
    world.here.under_way.mute.publish(frozenset({"pg1"}))
    world.others = {"pg3": {"silent": []}}
    judge(world, Vigil(world.here), "pg1")
    assert world.done == []


def test_a_silent_host_is_declared_dead_and_later_reported_alive(world: World) -> None:
    watch = Vigil(world.here)
    world.here.under_way.mute.publish(frozenset({"pg1"}))
    world.others = {"pg3": {"silent": ["pg1"]}}
    judge(world, watch, "pg1")
    assert world.done == ["pg1 is dead", "hang-up 10.0.0.1 5432 9000 9898 9999", "drop pg1"]
    world.leads = True  # this node was elected in between
    judge(world, watch, "pg1")
    judge(world, watch, "pg3")
    judge(world, watch, "pg1")  # pgpool-II has not confirmed yet that pg1 is down
    assert world.done[3:] == ["detach pg1", "detach pg1"]
    world.down.add("pg1")
    judge(world, watch, "pg1")
    world.down.clear()
    judge(world, watch, "pg1")  # pgpool-II has confirmed it and gets no further request
    world.here.under_way.mute.publish(frozenset())
    judge(world, watch, "pg1")
    judge(world, watch, "pg1")
    assert world.done[5:] == ["pg1 is alive"]


def test_a_host_that_stays_away_is_left_to_the_health_checks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Vigil(world.here)
    world.leads = True
    world.here.under_way.mute.publish(frozenset({"pg1"}))
    world.others = {"pg3": {"silent": ["pg1"]}}
    judge(world, watch, "pg1")
    monkeypatch.setattr(vigil, "_DETACH_SECONDS", 0)
    world.done.clear()
    judge(world, watch, "pg1")
    assert world.done == []
    assert watch._goes_on()  # to report its return to the watchdog


def test_a_target_that_vanished_is_not_detached_again(world: World) -> None:
    world.leads, world.down = True, {"pg3"}
    world.here.under_way.mute.publish(frozenset({"pg3"}))
    world.others = {"pg1": {"silent": ["pg3"]}}
    judge(world, Vigil(world.here), "pg3")
    assert world.done == ["pg3 is dead", "hang-up 10.0.0.3 5432 9000 9898 9999", "drop pg3"]


def test_without_a_recovery_no_node_watches(world: World) -> None:
    watch = Vigil(world.here)
    watch.tend(ClusterFacts({"pg1": NodeFacts("pg1"), "pg3": NodeFacts("pg3", half_copied=True)}))
    assert not watch._watching


def test_a_vigil_that_is_requested_again_while_it_ends_continues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recovery begins shortly before or after the end of the previous recovery's vigil."""
    monkeypatch.setattr(vigil, "_LINGER_SECONDS", 0.3)
    monkeypatch.setattr(vigil, "_PAUSE_SECONDS", 0.01)
    heard: list[str] = []
    monkeypatch.setattr(Vigil, "_judge", lambda _, node: heard.append(node.name))
    monkeypatch.setattr(Vigil, "_listen", lambda *_: None)
    watch = Vigil(world.here)
    for pause in (0.299, 0.3, 0.301, 0.31, 0.5):
        heard.clear()
        watch.begin()
        assert eventually(lambda: {"pg1", "pg3"} <= set(heard), 60)
        time.sleep(pause)
    assert eventually(lambda: not watch._watching, 60)


def test_all_nodes_watch_from_the_request_for_a_recovery_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def ask_all(_: Peers, request: object, **__: object) -> dict[str, object]:
        asked.append(request)
        return {}

    monkeypatch.setattr(Peers, "ask_all", ask_all)
    monkeypatch.setattr(two_stages, "pcp_recovery", lambda _, name: asked.append(name))
    began: list[str] = []
    answers = Answers(world.here, threading.RLock(), lambda: None, list, lambda: began.append("pg2"))
    answers.do(PcpRecoveryRequest("pg3"), lambda _: None)
    answers.do(WatchRequest(), lambda _: None)
    assert asked == [WatchRequest(), "pg3"]
    assert began == ["pg2", "pg2"]


def test_a_refused_connection_is_an_answer_and_silence_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vigil, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        place = listening.getsockname()
        with socket.create_connection(place), socket.socket() as second:
            second.settimeout(0.2)
            second.connect_ex(place)  # the queue is full now, so the kernel drops further connections
            assert not vigil.answers(socket.AF_INET, place)
    assert vigil.answers(socket.AF_INET, place)


@pytest.mark.parametrize("why", ["a failover", "a silent host"])
def test_the_collection_of_facts_does_not_wait_for_a_blocked_pgpool(
    world: World, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Clients wait for the failover meanwhile, so the last facts from pgpool-II are used."""
    answers = threading.Event()
    last, here = PgpoolFacts(WatchdogState.STANDBY, True, {}), world.here
    monkeypatch.setattr(pgpool, "look", lambda *_: last)
    here._looked_at_pgpool()
    assert here._looked_at_pgpool() is last
    here.forget_looks()
    monkeypatch.setattr(pgpool, "look", lambda *_: answers.wait(10) and None)
    here.under_way.mute.publish(frozenset({"pg1"} if why == "a silent host" else ()))
    began = time.monotonic()
    with here.under_way.pgpool_busy if why == "a failover" else nullcontext():
        assert here._looked_at_pgpool() is last
    assert time.monotonic() - began < 5
    answers.set()


def test_a_malformed_answer_of_another_node_ends_no_vigil(world: World) -> None:
    for said in (7, None, "pg2", {"pg2": 1}, [7, "pg3"]):
        world.others["pg1"] = {"silent": said}
        assert Vigil(world.here)._others_say() == []
