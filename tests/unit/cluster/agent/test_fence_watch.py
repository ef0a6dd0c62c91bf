"""A primary without a majority is fenced in time, whatever the agent's loop does, and a stuck agent starves systemd."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cluster.owners import Owners
from tests.unit.cluster.nodes import CLUSTER, away, healthy, make_cluster, seen
from tests.unit.cluster.threads import AT_ONCE
from tests.unit.eventually import eventually

from pgpool_cluster.agent import contact, fence_watch
from pgpool_cluster.agent.agent import Agent
from pgpool_cluster.agent.contact import Alone
from pgpool_cluster.agent.fence_watch import FenceWatch
from pgpool_cluster.decision import fencing
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.decision.facts.pause import Pause
from pgpool_cluster.decision.liveness.links import DEAD_SECONDS
from pgpool_cluster.definition.cluster import Cluster, Mode, PostgresqlCluster, Service
from pgpool_cluster.ground import log, paths
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.node.node import Here
from pgpool_cluster.postgresql import data_directory, postmaster
from pgpool_cluster.transport.peers import Peers

OTHERS = frozenset({"pg2", "pg3"})
MEMBER = Record(system=7000, term=1, led=1)
DEADLINE = fencing.FENCE_SECONDS - DEAD_SECONDS
"""Seconds after the loss of the others was noticed."""


class Fenced:
    """A node pg1 with a running PostgreSQL and pgpool-II, and the time, which a test sets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.runs, self.ends = 1000.0, True, True
        self.done: list[str] = []
        self.controlled: Callable[[], None] = lambda: None
        self.data = folder / "data"
        self.data.mkdir()
        database: Any = SimpleNamespace(instance=Instance(PostgresqlCluster(17, "main"), 5432, self.data))
        monkeypatch.setattr(paths, "SERVE", folder / "serve")
        paths.SERVE.touch()
        monkeypatch.setattr(fence_watch, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(postmaster, "runs", lambda _: self.runs)
        monkeypatch.setattr(postmaster, "kill", self._kill)
        monkeypatch.setattr(units, "control", self._control)
        for write in ("info", "warning", "error"):
            monkeypatch.setattr(log, write, self.done.append)
        self.here = Here(CLUSTER, CLUSTER.named("pg1"), database, Peers({}), MEMBER)
        self.here.beats.note_support(dict.fromkeys(OTHERS, True))
        self.see(*healthy())
        self.watch = FenceWatch(self.here, lambda: None, lambda: None)

    def _kill(self, _: Instance) -> bool:
        self.done.append("killed")
        self.runs = not self.ends
        return self.ends

    def _control(self, verb: str, unit: str) -> None:
        self.controlled()
        self.done.append(f"{verb} {unit}")

    def see(self, *nodes: NodeFacts) -> None:
        """Publish facts for which all nodes were asked just now."""
        self.here.seen.publish(seen(*nodes))
        self.here.asked.publish({node.node: self.now for node in nodes if node.reachable})

    def lose(self, names: frozenset[str] = OTHERS, seconds: float = DEADLINE) -> None:
        """Let nodes be silent from now on, and so many seconds pass."""
        self.here.silent.publish(names)
        self.now += 0.1
        self.watch.step()
        self.now += seconds
        self.watch.step()


@pytest.fixture
def fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fenced:
    return Fenced(tmp_path, monkeypatch)


@pytest.fixture
def at_once(fenced: Fenced, monkeypatch: pytest.MonkeyPatch) -> Fenced:
    """The work after the fence is done when the step ends."""
    monkeypatch.setattr(fence_watch, "threading", AT_ONCE)
    return fenced


def events(fenced: Fenced) -> list[tuple[str, str]]:
    return [(event.kind, event.failed) for event in fenced.here.history.recent(9)[0]]


STOPPED = f"stop {paths.PGPOOL_UNIT}"


# When


def test_a_primary_that_has_lost_the_others_is_killed_and_its_pgpool_stopped(at_once: Fenced) -> None:
    at_once.lose()
    assert at_once.done == [
        "killed", f"stop pgpool pg1: {fencing.REASON}", STOPPED, f"fence pg1: {fencing.REASON}"
    ]  # fmt: skip
    assert not paths.SERVE.exists()
    assert events(at_once) == [("stop-pgpool", ""), ("fence", "")]
    at_once.now += 60
    at_once.watch.step()
    assert len(at_once.done) == 4, "it is done once"


def test_it_serves_for_a_moment(at_once: Fenced) -> None:
    at_once.lose(seconds=DEADLINE - 0.1)
    assert at_once.done == []


def test_a_lock_a_hanging_unit_and_facts_of_long_ago_delay_nothing(fenced: Fenced) -> None:
    """The loop holds `acting`, and has collected no facts since the others were in sight."""
    agent = Agent(fenced.here)
    hangs, served = threading.Event(), threading.Event()

    def hang() -> None:
        served.set()
        hangs.wait(30)

    fenced.controlled = hang
    with agent.acting, fenced.here._lock:
        thread = threading.Thread(target=fenced.lose)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert "killed" in fenced.done
    assert served.wait(10)
    fenced.now, fenced.runs = fenced.now + 60, True
    fenced.watch.step()
    assert fenced.done.count("killed") == 2, "a server that is started again is killed while pgpool-II still stops"
    hangs.set()
    assert eventually(lambda: STOPPED in fenced.done)


@pytest.mark.parametrize("silent", [frozenset[str](), frozenset({"pg2"})])
def test_a_primary_with_a_majority_is_not_fenced(at_once: Fenced, silent: frozenset[str]) -> None:
    at_once.see(healthy()[0], away("pg2"), away("pg3"))
    at_once.lose(silent, seconds=60)
    assert at_once.done == []


def test_a_silent_node_that_answers_requests_is_a_contact_while_its_answer_is_new(at_once: Fenced) -> None:
    at_once.lose(seconds=0.0)
    at_once.see(*healthy())
    at_once.now += fencing.ANSWER_SECONDS - 0.1
    at_once.watch.step()
    at_once.now += DEADLINE
    at_once.watch.step()
    assert at_once.done == []
    at_once.now += DEADLINE + 0.1
    at_once.watch.step()
    assert at_once.done[0] == "killed"


def test_the_time_begins_again_with_a_contact(at_once: Fenced) -> None:
    at_once.lose(seconds=DEADLINE - 0.1)
    at_once.lose(frozenset(), seconds=0.1)
    at_once.lose(seconds=DEADLINE - 0.1)
    assert at_once.done == []


def test_an_agent_without_any_facts_fences_as_well(at_once: Fenced) -> None:
    """It was restarted by systemd after its node had been cut off."""
    at_once.here.seen.publish(ClusterFacts())
    at_once.here.asked.publish({})
    at_once.lose()
    assert at_once.done[0] == "killed"


def test_a_primary_whose_new_nodes_are_not_installed_yet_keeps_serving(at_once: Fenced) -> None:
    """Nothing has arrived from them since the agent started, so they have replaced no node."""
    at_once.here.beats.renew(make_cluster(count=1), CLUSTER.named("pg1"))
    at_once.here.beats.renew(CLUSTER, CLUSTER.named("pg1"))
    at_once.lose(seconds=60)
    assert at_once.done == []


# Its extent


def test_a_standby_keeps_running_and_only_its_pgpool_is_stopped(at_once: Fenced) -> None:
    """Its stale facts may still say that it accepts writes."""
    (at_once.data / "standby.signal").touch()
    at_once.lose()
    assert at_once.done == [f"stop pgpool pg1: {fencing.REASON}", STOPPED]


@pytest.mark.parametrize(
    "record", [Record(), replace(MEMBER, copying="pg2")], ids=["not a member", "its data is being replaced"]
)
def test_a_server_whose_data_is_not_the_clusters_is_not_killed(at_once: Fenced, record: Record) -> None:
    at_once.here.record = record
    at_once.lose()
    assert "killed" not in at_once.done


def test_a_server_with_other_data_than_the_record_is_not_killed(at_once: Fenced) -> None:
    at_once.see(replace(healthy()[0], member=False))
    at_once.lose()
    assert "killed" not in at_once.done


def test_a_disk_that_fails_does_not_keep_a_primary(at_once: Fenced, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(data_directory, "is_standby", fail)
    at_once.lose()
    assert at_once.done[0] == "killed"


def test_a_pause_of_the_administrator_holds_it_back(at_once: Fenced) -> None:
    at_once.here.record = replace(MEMBER, pause=Pause(1, True, 0.0, "root@pg1", ""))
    at_once.lose()
    assert at_once.done == []


@pytest.mark.parametrize(
    "cluster", [make_cluster(count=2, synchronous=0), make_cluster(Mode.NATIVE_REPLICATION, synchronous=0)]
)
def test_of_two_nodes_and_where_every_node_is_a_primary_none_is_fenced(at_once: Fenced, cluster: Cluster) -> None:
    at_once.here.cluster = cluster
    at_once.lose(seconds=60)
    assert at_once.done == []


def test_a_witness_without_a_majority_stops_its_pgpool(at_once: Fenced) -> None:
    at_once.here.database = None
    at_once.lose()
    assert at_once.done == [f"stop pgpool pg1: {fencing.REASON}", STOPPED]


def test_a_server_that_does_not_end_is_killed_again_and_reported(at_once: Fenced) -> None:
    at_once.ends = False
    at_once.lose()
    at_once.watch.step()
    assert at_once.done.count("killed") == 2
    assert events(at_once)[-1] == ("fence", postmaster.LEFT)


def test_a_primary_whose_witness_knows_of_a_later_term_is_fenced(at_once: Fenced) -> None:
    pg1, pg2, pg3 = CLUSTER.nodes
    at_once.here.cluster = replace(CLUSTER, nodes=(pg1, pg2, replace(pg3, runs=frozenset({Service.PGPOOL}))))
    at_once.see(healthy()[0], away("pg2"), NodeFacts("pg3", term=2))
    at_once.lose(frozenset({"pg2"}))
    assert at_once.done[0] == "killed"


# The thread


def test_the_thread_feeds_the_watchdog_and_survives_a_fault(fenced: Fenced, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[float] = []
    fenced.watch.feed = lambda: fed.append(time.monotonic())
    monkeypatch.setattr(fencing, "at_present", lambda *_: 1 / 0)
    with fenced.watch.running():
        assert eventually(lambda: len(fed) >= 3)
        assert eventually(lambda: bool(fenced.done))
    assert fenced.done == ["the fence failed: ZeroDivisionError: division by zero"]


def test_its_threads_write_no_attribute_without_a_lock(fenced: Fenced, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    owners = Owners(reported.append)
    for cls in (FenceWatch, Alone):
        monkeypatch.setattr(cls, "__init__", cls.__init__)
        monkeypatch.setattr(cls, "__setattr__", cls.__setattr__)
    owners.watch(fence_watch)
    owners.watch(contact)
    fenced.watch = FenceWatch(fenced.here, lambda: None, lambda: None)
    fenced.here.asked.publish({})
    with fenced.watch.running():
        fenced.here.silent.publish(OTHERS)
        assert eventually(lambda: bool(fenced.watch._silent))
        fenced.now += 60
        assert eventually(lambda: STOPPED in fenced.done), fenced.done
    assert reported == []
