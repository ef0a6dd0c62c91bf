"""The local watch distinguishes a death of a main process from a planned end, and serves the heartbeats."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.nodes import CLUSTER
from tests.unit.eventually import eventually

from pgpool_cluster.agent import local_watch
from pgpool_cluster.agent.local_watch import FROZEN_SECONDS, LocalWatch
from pgpool_cluster.decision.liveness.heartbeat import ProcessState
from pgpool_cluster.decision.liveness.links import Link, LinkState
from pgpool_cluster.decision.liveness.silence import Probe, is_silent
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import log, paths
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine import process_watch, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node.node import Here
from pgpool_cluster.transport.heartbeats import Heartbeats, News
from pgpool_cluster.transport.peers import Peers

KILLED = UnitState("failed", "signal", was_active=True)


class Process:
    """A main process; a pipe stands in for its pidfd, and its other end closes when the process ends."""

    def __init__(self, pid: int) -> None:
        self.pid, self.frozen, self.ended, self.closed = pid, False, False, False
        self.handle, self._alive = os.pipe()

    def end(self) -> None:
        self.ended = True
        os.close(self._alive)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        os.close(self.handle)
        if not self.ended:
            os.close(self._alive)


class Watched:
    """A node with a local watch. `said` has the reported states of PostgreSQL, `pool` those of pgpool-II."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server: Process | None = None
        self.pgpool: Process | None = None
        self.left = False
        self.unit: UnitState | None = KILLED
        self.upgraded = False
        self.said: list[ProcessState] = []
        self.pool: list[ProcessState] = []
        self.logged: list[str] = []
        self.wakes: list[float] = []
        database: Any = SimpleNamespace(instance=Instance(PostgresqlCluster(17, "main"), 5432, folder / "data"))
        monkeypatch.setattr(paths, "STOPPED", folder / "stopped")
        monkeypatch.setattr(paths, "HEARTBEAT_KEY", folder / "heartbeat_key")
        monkeypatch.setattr(paths, "PARTNERS", folder / "partners")
        monkeypatch.setattr(process_watch, "postmaster", lambda _: self._take("server"))
        monkeypatch.setattr(process_watch, "pool", lambda: self._take("pgpool"))
        monkeypatch.setattr(process_watch, "left_its_file", lambda *_: self.left)
        monkeypatch.setattr(units, "state", lambda _: self._state())
        monkeypatch.setattr(UnitState, "restarts_with", lambda *_: self.upgraded)
        monkeypatch.setattr(Heartbeats, "note_server", lambda _, state: self.said.append(state))
        for write in ("info", "warning", "error"):
            monkeypatch.setattr(log, write, self.logged.append)
        self.here = Here(CLUSTER, CLUSTER.named("pg1"), database, Peers({}), Record())
        self.watch = LocalWatch(self.here, lambda: self.wakes.append(time.monotonic()))
        self.watch._pool.report = self.pool.append

    def _take(self, name: str) -> Process | None:
        found: Process | None = getattr(self, name)
        return found if found is not None and not found.ended else None

    def _state(self) -> UnitState:
        if self.unit is None:
            raise ServerError("systemd does not answer", hint="")
        return self.unit


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def runs(node: Watched) -> Process:
    node.server = Process(100)
    node.watch.step()
    assert node.said == [ProcessState.RUNS]
    node.said.clear()
    node.wakes.clear()
    return node.server


@pytest.mark.parametrize(
    ("unit", "left", "state"),
    [
        pytest.param(KILLED, True, ProcessState.DIED, id="killed"),
        pytest.param(UnitState("active", "success", was_active=True), True, ProcessState.DIED,
                     id="killed a moment ago, and systemd has not noticed"),
        pytest.param(UnitState("deactivating", "success", was_active=True, queued=True), True, ProcessState.DIED,
                     id="killed during a stop"),
        pytest.param(UnitState("active", "success", was_active=True), False, ProcessState.DIED, id="it gave up itself"),
        pytest.param(UnitState("deactivating", "exit-code", was_active=True), False, ProcessState.DIED,
                     id="it gave up itself, and systemd cleans up"),
        pytest.param(UnitState("deactivating", "success", was_active=True, queued=True), False, ProcessState.ENDED,
                     id="systemctl restart or stop"),
        pytest.param(UnitState("activating", "success", was_active=True), False, ProcessState.ENDED, id="starts again"),
        pytest.param(UnitState("inactive", "success", was_active=True, queued=True), False, ProcessState.ENDED,
                     id="between stop and start"),
        pytest.param(UnitState("activating", "exit-code", was_active=True, queued=True), False, ProcessState.ENDED,
                     id="systemd restarts it by Restart="),
        pytest.param(None, False, ProcessState.ENDED, id="systemd does not answer: the next facts show the truth"),
    ],
)  # fmt: skip
def test_only_an_unplanned_end_of_postgresql_is_a_death(
    unit: UnitState | None, left: bool, state: ProcessState, node: Watched
) -> None:
    process = runs(node)
    node.unit, node.left = unit, left
    process.end()
    node.watch.step()
    assert (node.said, len(node.wakes), process.closed) == ([state], 1, True)
    assert [line for line in node.logged if "has died" in line] == (
        ["PostgreSQL has died (process 100)"] if state is ProcessState.DIED else []
    )
    node.watch.step()
    assert node.said == [state], "each end is reported once"


def test_a_stop_by_the_agent_or_an_upgrade_is_no_death(node: Watched) -> None:
    process = runs(node)
    paths.STOPPED.touch()
    process.end()
    node.watch.step()
    paths.STOPPED.unlink()
    node.server, node.upgraded = Process(101), True
    node.watch.step()
    node.server.end()
    node.watch.step()
    assert node.said == [ProcessState.ENDED, ProcessState.RUNS, ProcessState.ENDED]


def test_a_restarted_server_is_held_again(node: Watched) -> None:
    process = runs(node)
    node.left = True
    process.end()
    node.server = Process(101)
    node.watch.step()
    assert node.said == [ProcessState.DIED, ProcessState.RUNS]
    node.server.close()


@pytest.mark.parametrize(
    ("unit", "state"),
    [(KILLED, ProcessState.DIED), (UnitState("activating", "signal", was_active=True), ProcessState.DIED),
     (UnitState("deactivating", "success", was_active=True, queued=True), ProcessState.ENDED)],
)  # fmt: skip
def test_pgpool_is_watched_as_well(unit: UnitState, state: ProcessState, node: Watched) -> None:
    node.pgpool, node.unit = Process(200), unit
    node.watch.step()
    node.pgpool.end()
    node.watch.step()
    assert node.pool == [ProcessState.RUNS, state]


def test_a_server_that_a_signal_stops_hangs_after_three_seconds(node: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    process, now = runs(node), [100.0]
    monkeypatch.setattr("pgpool_cluster.agent.local_watch.time", SimpleNamespace(monotonic=lambda: now[0]))
    process.frozen = True
    node.watch.step()
    now[0] += FROZEN_SECONDS - 0.1
    node.watch.step()
    assert node.said == []
    now[0] += 0.2
    node.watch.step()
    node.watch.step()
    assert node.said == [ProcessState.FROZEN]
    process.frozen = False
    node.watch.step()
    assert node.said == [ProcessState.FROZEN, ProcessState.RUNS]
    process.frozen = True
    node.watch.step()
    assert len(node.said) == 2, "a second pause counts from its own start"


def test_another_server_is_watched_if_cluster_yml_names_it(node: Watched) -> None:
    first = runs(node)
    other: Any = SimpleNamespace(instance=Instance(PostgresqlCluster(18, "main"), 5433, Path("/other")))
    node.here.database, node.server = other, Process(101)
    node.watch.step()
    assert (first.closed, node.said) == (True, [ProcessState.RUNS])
    node.here.database = None
    node.watch.step()
    assert node.server.closed


def test_keys_are_read_when_apply_has_written_them(node: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, ...]] = []
    monkeypatch.setattr(Heartbeats, "use_keys", lambda _, keys: used.append(keys))
    node.watch.step()
    assert used == [], "without the file"
    paths.HEARTBEAT_KEY.write_text("a" * 64 + "\n")
    node.watch.step()
    node.watch.step()
    assert used == [("a" * 64,)]
    fresh = paths.HEARTBEAT_KEY.with_suffix(".new")
    fresh.write_text("b" * 64 + "\n" + "a" * 64 + "\n")
    fresh.rename(paths.HEARTBEAT_KEY)
    node.watch.step()
    assert used[1:] == [("b" * 64, "a" * 64)]


# The thread


@pytest.fixture
def running(node: Watched) -> Iterator[Watched]:
    node.server = Process(100)
    with node.watch.running():
        yield node
    names = {one.name for one in threading.enumerate()}
    assert not names & {"heartbeats", "local watch"}, "both threads end"
    assert node.server.closed


@pytest.fixture
def one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second search is later than any test waits."""
    monkeypatch.setattr(local_watch, "_PAUSE_SECONDS", 60.0)


@pytest.mark.usefixtures("one_search")
def test_a_death_is_reported_at_once(running: Watched) -> None:
    assert eventually(lambda: running.said == [ProcessState.RUNS])
    running.left = True
    assert running.server is not None
    running.server.end()
    assert eventually(lambda: running.said == [ProcessState.RUNS, ProcessState.DIED])


def test_news_of_the_heartbeats_is_logged_and_wakes_the_loop(running: Watched) -> None:
    assert eventually(lambda: running.said == [ProcessState.RUNS])
    running.wakes.clear()
    running.here.beats._report(News("the link with pg2 is lost", bad=True))
    assert eventually(lambda: "the link with pg2 is lost" in running.logged)
    assert running.wakes


def test_a_fault_of_the_watch_is_logged_once_and_does_not_end_it(
    running: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(local_watch, "_PAUSE_SECONDS", 0.01)
    assert eventually(lambda: running.said == [ProcessState.RUNS])
    assert running.server is not None
    with monkeypatch.context() as broken:
        broken.setattr(process_watch, "postmaster", fail)
        running.server.end()
        assert eventually(lambda: any("local watch failed: RuntimeError: no" in line for line in running.logged))
        time.sleep(0.1)
    running.server = Process(101)
    assert eventually(lambda: running.said[-1] is ProcessState.RUNS)
    assert sum("local watch failed" in line for line in running.logged) == 1


# The nodes that send heartbeats


def states(here: Here) -> list[LinkState]:
    return [link.state for link in here.beats.links().values()]


def test_the_next_agent_expects_heartbeats_of_the_nodes_that_sent_some(node: Watched) -> None:
    """An agent that is restarted while its node is cut off finds the others silent, and fences the node."""
    assert states(node.here) == [LinkState.UNKNOWN, LinkState.UNKNOWN]
    node.here.beats.note_support({"pg2": True, "pg3": False})
    node.watch.step()
    node.watch.step()
    assert paths.PARTNERS.read_text() == "pg2\n"
    fresh = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record())
    with LocalWatch(fresh, lambda: None).running():
        assert states(fresh) == [LinkState.NEVER, LinkState.UNKNOWN]
        began = fresh.beats.links()["pg2"].since
    assert is_silent(Link("pg2", LinkState.NEVER, began), Probe(began, answered=False), began + 1.3, has_server=True)


def test_a_node_that_sends_none_any_more_is_forgotten(node: Watched) -> None:
    paths.PARTNERS.write_text("pg2\npg9\n")
    node.watch._recall_partners()
    node.here.beats.note_support({"pg2": False})
    node.watch.step()
    assert paths.PARTNERS.read_text() == ""


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"../../etc\n" * 9, None])
def test_a_damaged_or_odd_list_changes_nothing(content: bytes | None, node: Watched) -> None:
    if content is None:
        os.mkfifo(paths.PARTNERS)
    else:
        paths.PARTNERS.write_bytes(content)
    node.watch._recall_partners()
    assert states(node.here) == [LinkState.UNKNOWN, LinkState.UNKNOWN]
