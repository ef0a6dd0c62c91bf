"""If PostgreSQL hangs, every wait for it ends, and everything that does not need it continues."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.hanging import PORT, HangingServer, hanging_server
from tests.unit.cluster.nodes import CLUSTER, crashed, kinds, orphaned, primary, seen, standby
from tests.unit.cluster.nodes import pgpool as view

from pgpool_cluster.decision.actions import Follow, Promote
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts.facts import NodeFacts, Postgresql
from pgpool_cluster.decision.liveness.heartbeat import ProcessState
from pgpool_cluster.decision.promotion import failover
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.connection import Unanswered
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.node import node
from pgpool_cluster.node.node import Here
from pgpool_cluster.postgresql import database as databases
from pgpool_cluster.postgresql.database import Database
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import LookRequest


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingServer]:
    monkeypatch.setattr(paths, "SOCKETS", str(tmp_path))
    monkeypatch.setattr(databases, "_LOOK_SECONDS", 0.3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("15\n")
    with hanging_server(tmp_path) as found:
        yield found


@pytest.fixture
def database(server: HangingServer, tmp_path: Path) -> Database:
    del server
    return Database(Instance(PostgresqlCluster(15, "main"), PORT, tmp_path / "data"))


@pytest.fixture
def here(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The node pg1, whose server hangs."""
    monkeypatch.setattr(paths, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    monkeypatch.setattr(pgpool, "look", lambda *_: None)

    def asked(self: Database, *_: object) -> NodeFacts:
        assert self._looks.query("SELECT 1", (), databases._LOOK_SECONDS) == [(1,)]
        return primary("pg1")

    monkeypatch.setattr(Database, "_asked", asked)
    return Here(CLUSTER, CLUSTER.named("pg1"), database, Peers({}), Record(system=1, term=4, led=4))


def eventually_up(here: Here, seconds: float = 5.0) -> bool:
    """Return whether the server is found up within `seconds`; on an idle machine, this takes hundredths of a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        here.forget_looks()
        with contextlib.suppress(OperationError):
            if here.look().up:
                return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("greets", [True, False])
def test_a_query_ends_whatever_the_server_does(server: HangingServer, database: Database, greets: bool) -> None:
    server.greets = greets
    began = time.monotonic()
    with pytest.raises(Unanswered, match="did not answer within"):
        database.query("SELECT 1", seconds=0.3)
    assert 0.2 < time.monotonic() - began < 1
    server.greets = True
    server.answers.set()
    assert database.query("SELECT 1") == [(1,)]


def test_a_session_ends_whatever_the_server_does(database: Database) -> None:
    with pytest.raises(psycopg2.OperationalError), database.session("template1", seconds=0.2) as cursor:
        cursor.execute("SELECT 1")


def test_a_query_that_waits_for_another_one_keeps_its_own_time_limit(database: Database) -> None:
    with ThreadPoolExecutor() as workers:
        first = workers.submit(database.query, "SELECT 1", seconds=0.8)
        time.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(Unanswered):
            database.query("SELECT 1", seconds=0.2)
        assert time.monotonic() - began < 0.5
        with pytest.raises(Unanswered):
            first.result()


def test_a_server_that_a_signal_has_stopped_hangs_whatever_an_old_session_answers(
    server: HangingServer, here: Here
) -> None:
    server.answers.set()
    assert here.look().postgresql is Postgresql.UP
    here.beats.note_server(ProcessState.FROZEN)
    here.forget_looks()
    assert here.look().postgresql is Postgresql.HANGING
    here.beats.note_server(ProcessState.RUNS)
    here.forget_looks()
    assert here.look().postgresql is Postgresql.UP


def test_a_server_that_a_signal_has_stopped_hangs_at_once_while_its_facts_are_awaited(
    server: HangingServer, here: Here
) -> None:
    """Without the signal, it would count as starting for some seconds."""
    server.answers.set()
    last = here.look()
    assert last.up
    assert here._busy(last, 0.1).postgresql is Postgresql.STARTING
    here.beats.note_server(ProcessState.FROZEN)
    assert here._busy(last, 0.1).postgresql is Postgresql.HANGING
    down = replace(last, postgresql=Postgresql.DOWN)
    assert here._busy(down, 0.1).postgresql is Postgresql.DOWN


def test_a_hanging_server_counts_as_starting_and_keeps_its_timeline(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = primary("pg1", timeline=2, at=1500)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "_asked", lambda *_: before)
        assert database.look(NodeFacts("pg1"), CLUSTER) == before
    began = time.monotonic()
    hanging = database.look(NodeFacts("pg1"), CLUSTER)
    assert time.monotonic() - began < 1
    assert hanging.postgresql is Postgresql.STARTING
    assert (hanging.system, hanging.timeline, hanging.history) == (before.system, 2, before.history)
    assert hanging.position is None  # only its earlier position is known


def test_a_server_without_answers_for_long_is_hanging_until_it_answers(
    server: HangingServer, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "HANGING_SECONDS", 0.5)
    found = [here.look().postgresql]
    while found[-1] is Postgresql.STARTING and len(found) < 20:
        here.forget_looks()
        found.append(here.look().postgresql)
    assert len(found) > 1
    assert found[-1] is Postgresql.HANGING
    server.answers.set()
    assert eventually_up(here)
    server.answers.clear()
    here.forget_looks()
    assert here.look().postgresql is Postgresql.STARTING


def test_ten_thousand_checks_of_a_hanging_server_use_few_connections_and_all_end(
    server: HangingServer, here: Here
) -> None:
    threads, began = threading.active_count(), time.process_time()
    with ThreadPoolExecutor(max_workers=50) as workers:
        found = list(workers.map(lambda _: here.look().postgresql, range(10_000)))
    assert set(found) == {Postgresql.STARTING}
    assert time.process_time() - began < 4
    assert server.connections < 15
    assert threading.active_count() < threads + 10
    server.answers.set()
    assert eventually_up(here)


def test_a_term_is_recorded_while_the_collection_of_facts_hangs(
    server: HangingServer, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_LOOK_SECONDS", 10.0)
    looking = threading.Thread(target=here.look)
    looking.start()
    time.sleep(0.1)
    assert here.note_term(5)
    here.remember(held=True)
    assert looking.is_alive()
    server.answers.set()
    looking.join()
    server.answers.clear()
    monkeypatch.setattr(databases, "_LOOK_SECONDS", 0.2)
    here.forget_looks()
    assert here.look().term == 5


def test_a_collection_of_facts_that_hangs_in_the_kernel_blocks_one_thread(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a thread cannot be ended. There must be only one, and a new collection must follow it."""
    goes_on, looks = threading.Event(), []

    def look(*_: object) -> NodeFacts:
        looks.append(1)
        goes_on.wait(10)
        return primary("pg1")

    monkeypatch.setattr(Database, "look", look)
    monkeypatch.setattr(here._looks, "_limit", 0.3)
    threads, began = threading.active_count(), time.monotonic()
    for _ in range(1000):
        here.forget_looks()
        with pytest.raises(OperationError, match="pg1 cannot collect its own facts"):
            here.look()
    assert time.monotonic() - began < 1.5
    assert len(looks) == 1
    assert threading.active_count() <= threads + 2
    goes_on.set()
    assert eventually_up(here)
    assert len(looks) == 2


def test_a_node_that_is_too_busy_to_collect_facts_stays_in_sight(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others used to treat it as lost: a primary on a busy machine was replaced during an upgrade."""
    slow = [0.0]

    def look(*_: object) -> NodeFacts:
        time.sleep(slow[0])
        return primary("pg1")

    monkeypatch.setattr(Database, "look", look)
    monkeypatch.setattr(here._looks, "_limit", 0.1)
    assert here.look().postgresql is Postgresql.UP
    slow[0] = 0.3
    here.remember(term=9)
    found = here.look()
    assert (found.reachable, found.postgresql, found.term) == (True, Postgresql.STARTING, 9)
    monkeypatch.setattr("pgpool_cluster.node.node.HANGING_SECONDS", 0.05)
    time.sleep(0.1)
    assert here.look().postgresql is Postgresql.HANGING
    slow[0] = 0.0
    assert eventually_up(here)


def test_a_request_for_fresh_facts_gets_facts_collected_afterwards(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = iter(range(1, 100))

    def look(*_: object) -> NodeFacts:
        term = next(terms)
        time.sleep(0.1)
        return primary("pg1", term=term)

    monkeypatch.setattr(Database, "look", look)
    with ThreadPoolExecutor() as workers:
        first = workers.submit(here.look)
        time.sleep(0.05)
        same = workers.submit(here.look)
        time.sleep(0.01)
        here.forget_looks()
        fresh = [workers.submit(here.look) for _ in range(5)]
        assert (first.result().term, same.result().term) == (1, 1)
        assert [one.result().term for one in fresh] == [2] * 5


def test_stale_answers_are_requested_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one node delays the collection, the facts of the others may have changed since their answers."""
    monkeypatch.setattr(Database, "look", lambda *_: standby("pg1", "pg2"))
    monkeypatch.setattr(node, "_OLD_SECONDS", 0.1)
    asked: list[tuple[str, ...]] = []

    def ask_some(_: Peers, names: list[str], request: LookRequest, **__: object) -> dict[str, NodeFacts]:
        asked.append((*names, str(request.fresh)))
        if len(asked) == 1:
            time.sleep(0.2)
        return {name: standby(name, "pg1", term=len(asked)) for name in names}

    monkeypatch.setattr(Peers, "ask_some", ask_some)
    here.peers = Peers.of(CLUSTER, "pg1")
    facts = here.look_at_all()
    assert asked == [("pg2", "pg3", "False"), ("pg2", "pg3", "False"), ("True",)]
    assert facts.of("pg2").term == facts.of("pg3").term == 2


def test_nodes_that_did_not_answer_before_a_stall_are_asked_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """This program was suspended, and the primary has come back meanwhile."""
    monkeypatch.setattr(Database, "look", lambda *_: standby("pg1", "pg2"))
    monkeypatch.setattr(node, "_LONGEST_SECONDS", 0.1)
    asked: list[list[str]] = []

    def ask_some(_: Peers, names: list[str], *__: object, **___: object) -> dict[str, NodeFacts]:
        asked.append(names)
        if len(asked) == 1:
            time.sleep(0.2)
            return {}
        return {name: primary(name) if name == "pg2" else standby(name, "pg2") for name in names}

    monkeypatch.setattr(Peers, "ask_some", ask_some)
    here.peers = Peers.of(CLUSTER, "pg1")
    assert here.look_at_all().of("pg2").writable


def test_answers_from_before_a_stall_are_ignored(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "look", lambda *_: standby("pg1", "pg2"))
    monkeypatch.setattr(node, "LOOK_SECONDS", 0.2)

    def ask_some(_: Peers, names: list[str], *__: object, **___: object) -> dict[str, NodeFacts]:
        if not names:
            time.sleep(0.3)  # this program was stopped
        return {name: standby(name, "pg1") for name in names}

    monkeypatch.setattr(Peers, "ask_some", ask_some)
    here.peers = Peers.of(CLUSTER, "pg1")
    facts = here.look_at_all()
    assert facts.of("pg1").reachable
    assert not facts.of("pg2").reachable
    assert not facts.of("pg3").reachable


HANGING = replace(crashed(primary("pg1")), postgresql=Postgresql.HANGING, pgpool=view(leader=False))
SLOW = replace(HANGING, postgresql=Postgresql.STARTING)
ORPHANS = (orphaned(standby("pg2", "pg1")), orphaned(standby("pg3", "pg1")))


def test_a_hanging_primary_is_replaced_once_most_nodes_cannot_log_in_and_a_slow_one_is_not() -> None:
    pg2 = CLUSTER.named("pg2")
    second, third = ORPHANS
    pg1 = frozenset({"pg1"})
    both = replace(second, silent=pg1), replace(third, silent=pg1)
    assert decide(CLUSTER, pg2, seen(HANGING, *both)) == (Promote("pg2", 2),)
    assert kinds(decide(CLUSTER, pg2, seen(HANGING, replace(second, silent=pg1), third))) == ["Wait"]
    assert kinds(decide(CLUSTER, pg2, seen(HANGING, *ORPHANS))) == ["Wait"]
    assert kinds(decide(CLUSTER, pg2, seen(SLOW, *both))) == ["Wait"]


def test_in_an_upgrade_the_watchdog_of_an_older_package_gives_up_a_hanging_primary() -> None:
    pg1, pg2 = CLUSTER.named("pg1"), CLUSTER.named("pg2")
    assert failover(CLUSTER, pg1, seen(HANGING, *ORPHANS)) == (Promote("pg2", 2), Follow("pg3", "pg2", 2))
    assert kinds(failover(CLUSTER, pg1, seen(SLOW, *ORPHANS))) == ["Wait"]
    given_up = view("pg1")
    assert kinds(decide(CLUSTER, pg2, seen(replace(HANGING, pgpool=given_up), *ORPHANS))) == ["Promote"]
    assert kinds(decide(CLUSTER, pg2, seen(replace(SLOW, pgpool=given_up), *ORPHANS))) == ["Wait"]
    assert kinds(decide(CLUSTER, pg2, seen(replace(HANGING, pgpool=view()), *ORPHANS))) == ["Wait"]


def test_a_hanging_primary_is_stopped_once_it_is_replaced() -> None:
    """Otherwise it would accept writes as soon as it continues, until its agent notices."""
    pg1, successor = CLUSTER.named("pg1"), primary("pg2", term=2, timeline=2, at=1500)
    follower = standby("pg3", "pg2", term=2, timeline=2, at=1500)
    assert kinds(decide(CLUSTER, pg1, seen(HANGING, *ORPHANS))) == ["Wait"]
    told = replace(HANGING, term=2)
    assert kinds(decide(CLUSTER, pg1, seen(told, successor, follower))) == ["Stop"]
    assert kinds(decide(CLUSTER, pg1, seen(replace(told, standby_signal=True), successor, follower))) == ["Wait"]
    assert kinds(decide(CLUSTER, pg1, seen(told))) == ["Wait"]


def test_a_hanging_server_that_is_being_stopped_is_not_stopped_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "HANGING_SECONDS", 0.0)
    monkeypatch.setattr(units, "state", lambda _: units.UnitState("deactivating", "success", True))
    for _ in range(2):
        assert database.look(NodeFacts("pg1"), CLUSTER).postgresql is Postgresql.STARTING


def test_collected_facts_are_in_the_next_heartbeat(here: Here) -> None:
    assert here.beats.postgresql is None
    assert not here.look().beats, "without a key, no heartbeat is sent"
    assert here.beats.postgresql is Postgresql.STARTING
    here.beats.use_keys(["a" * 64])
    here.forget_looks()
    assert here.look().beats


def test_a_new_cluster_yml_changes_the_nodes_that_receive_heartbeats(here: Here) -> None:
    assert set(here.beats.links()) == {"pg2", "pg3"}
    fewer = replace(CLUSTER, nodes=CLUSTER.nodes[:2])
    here.renew(Here(fewer, fewer.named("pg1"), here.database, Peers({}), here.record))
    assert set(here.beats.links()) == {"pg2"}
