"""Clients of every pgpool-II wait during a switchover, and go on after it, however it ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import pytest
from tests.unit.cluster.world import Acting, Host, World, at_work, hands, make_cluster

from pgpool_cluster.definition.cluster import Cluster, Mode, Node
from pgpool_cluster.ground.errors import OperationError, UsageError
from pgpool_cluster.node.client_queue import ClientQueue
from pgpool_cluster.operations import queueing, switchover
from pgpool_cluster.operations.succession import new_primary
from pgpool_cluster.transport.protocol import EndQueueRequest, QueueRequest

NAMES = ["pg1", "pg2", "pg3"]


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Three healthy nodes, pg1 is the primary; their agents do nothing by themselves."""
    with at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))) as found:
        monkeypatch.setattr(found, "step", lambda _: ())
        yield found


class Story:
    """The queues' beginnings and ends, the stop and the redirections, in order. `busy` tells each node's clients."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.busy: Callable[[str], int] = lambda _: 0
        self.seconds: set[float] = set()
        self.world = world
        stop, redirect = world.stop_server, world.redirect

        def stopped(host: Host) -> None:
            if host.up:
                self.told.append(f"stop {host.name}")
            stop(host)

        def redirected(cluster: Cluster, one: Node) -> None:
            self.told.append(f"redirect {self.me} to {one.name}")
            redirect(cluster, one)

        def begin(_: ClientQueue, seconds: float, port: int) -> int:
            assert port == 9999
            self.seconds.add(seconds)
            self.told.append(f"begin {self.me}")
            return self.busy(self.me)

        monkeypatch.setattr(world, "stop_server", stopped)
        monkeypatch.setattr(world, "redirect", redirected)
        monkeypatch.setattr(ClientQueue, "begin", begin)
        monkeypatch.setattr(ClientQueue, "end", lambda _: self.told.append(f"end {self.me}"))

    @property
    def me(self) -> str:
        return self.world.stack[-1]

    def switch(self, drain: float = 5.0) -> list[str]:
        """Switch over from pg1 to pg2, and return the reported progress."""
        said: list[str] = []
        here = self.world.hosts["pg1"].here
        assert here is not None
        with self.world.within("pg1"), Acting(self.world, "pg1"):
            switchover.run(here, self.world.facts("pg2"), said.append, drain=drain)
        return said


@pytest.fixture
def story(world: World, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(world, monkeypatch)


def test_clients_of_every_pgpool_wait_from_before_the_stop_until_their_pgpool_has_been_redirected(
    story: Story,
) -> None:
    assert story.switch() == ["stopping PostgreSQL of pg1", "promoting pg2"]
    told = story.told
    stop = told.index("stop pg1")
    assert sorted(told[:stop]) == [f"begin {name}" for name in NAMES]
    for name in NAMES:
        assert stop < told.index(f"redirect {name} to pg2") < told.index(f"end {name}")
    assert story.seconds == {20.0}


def test_open_transactions_end_before_the_stop(story: Story) -> None:
    left = [2, 1, 0]
    story.busy = lambda name: (left.pop(0) if left else 0) if name == "pg3" else 0
    assert story.switch()[0] == "waiting for 2 clients with an open transaction, at most 5 s"
    assert left == []


def test_a_transaction_that_does_not_end_is_waited_for_during_the_drain_only(story: Story, world: World) -> None:
    story.busy = lambda name: int(name == "pg1")
    began = world.clock
    said = story.switch(drain=20)
    assert said[0] == "waiting for 1 client with an open transaction, at most 20 s"
    assert 20 <= world.clock - began <= 30
    assert "stop pg1" in story.told


def test_without_a_drain_no_transaction_is_waited_for(story: Story) -> None:
    story.busy = lambda _: 1
    assert story.switch(drain=0)[0] == "stopping PostgreSQL of pg1"
    assert story.told.count("begin pg1") == 1


def test_a_switchover_that_fails_lets_all_clients_go_on(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    def promote(*_: object) -> None:
        raise OperationError("no majority", hint="")

    monkeypatch.setattr(new_primary, "promote", promote)
    with pytest.raises(OperationError, match="no majority"):
        story.switch()
    assert sorted(story.told[-3:]) == [f"end {name}" for name in NAMES]
    assert not [text for text in story.told if text.startswith("redirect")]
    assert story.world.hosts["pg1"].up


def test_a_node_with_an_older_package_has_no_queue_and_the_switchover_goes_on(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = ClientQueue.begin

    def refuse(queue: ClientQueue, seconds: float, port: int) -> int:
        if story.me == "pg3":
            raise OperationError("unknown request 'queue'", hint="")
        return begin(queue, seconds, port)

    monkeypatch.setattr(ClientQueue, "begin", refuse)
    story.switch()
    assert "begin pg3" not in story.told
    assert "stop pg1" in story.told


def test_a_redirection_that_fails_ends_the_queue(story: Story, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationError("pcp: no answer", hint="")

    monkeypatch.setattr(world, "redirect", fail)
    with world.within("pg3"), contextlib.suppress(OperationError):
        here = world.hosts["pg3"].here
        assert here is not None
        queueing.end(here, EndQueueRequest("pg1"))
    assert story.told == ["end pg3"]


def test_a_witness_without_pgpool_has_no_clients(story: Story, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    here = world.hosts["pg3"].here
    assert here is not None
    monkeypatch.setattr(here, "me", Node(2, "pg3", "10.0.0.3", 5432, 1.0, frozenset()))
    assert queueing.answer(here, QueueRequest(5)).busy == 0
    assert story.told == []


@pytest.mark.parametrize("drain", [-1.0, 60.5, math.nan, math.inf])
def test_a_drain_out_of_bounds_is_refused(drain: float) -> None:
    with pytest.raises(UsageError, match="transactions cannot get") as refusal:
        queueing.bounded(drain)
    assert "0 to 60" in refusal.value.hint
