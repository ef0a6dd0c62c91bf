"""Online recovery with streaming replication does as little as is enough, and pgpool-II attaches the node again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, healthy, orphaned, pgpool, primary, seen, standby
from tests.unit.cluster.world import CHECKPOINT, Acting, Data, World, at_work, hands, make_cluster

from pgpool_cluster.decision import recovery_plan
from pgpool_cluster.decision.actions import Promote
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts, Postgresql
from pgpool_cluster.decision.recovery_plan import Remedy
from pgpool_cluster.definition.cluster import Cluster, Mode
from pgpool_cluster.ground import waiting
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act, attachment
from pgpool_cluster.recovery import streaming
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import AttachRequest, LetGoRequest


class Recovering:
    """A cluster of three whose nodes are recovered. Its agents do nothing by themselves.

    `copies`: the nodes whose data was replaced, and how. `said`: the progress of the recovery.
    """

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.copies: list[str] = []
        self.said: list[str] = []
        copy = world.copy

        def copied(here: Here, source: str, *, member: bool, rewind: bool = False) -> None:
            self.copies.append(f"{'rewind' if rewind else 'clone'} {here.me.name} from {source}")
            copy(here, source, member=member, rewind=rewind)

        monkeypatch.setattr(world, "copy", copied)
        monkeypatch.setattr(world, "step", lambda _: ())

    def data(self, name: str) -> Data:
        found = self.world.hosts[name].data
        assert found is not None
        return found

    def remember(self, name: str, **changes: object) -> None:
        self.here(name).remember(**changes)

    def stop(self, name: str) -> None:
        """Stop a standby, which every pgpool-II has detached."""
        self.world.stop_server(self.world.hosts[name])
        for other in self.world.hosts:
            self.world.on(other, LetGoRequest(name))
        assert self.world.users(name) == []

    def here(self, name: str) -> Here:
        found = self.world.hosts[name].here
        assert found is not None
        return found

    def recover(self, name: str, *, force: bool = False) -> None:
        with self.world.within(name), Acting(self.world, name):
            streaming.recover(self.here(name), self.said.append, force=force)


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recovering]:
    with at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))) as world:
        yield Recovering(world, monkeypatch)


def test_a_standby_that_is_down_is_started_and_keeps_its_data(three: Recovering) -> None:
    three.stop("pg2")
    three.world.write()
    three.recover("pg2")
    assert three.copies == []
    assert three.world.streams(three.world.hosts["pg2"])
    assert three.data("pg2").writes == {1}
    assert "starting it with its own data" in three.said


def test_a_running_standby_is_only_pointed_to_the_primary(three: Recovering) -> None:
    three.data("pg2").follows = "pg3"
    three.recover("pg2")
    assert three.copies == []
    assert "starting it with its own data" not in three.said
    assert three.data("pg2").follows == "pg1"


def test_a_standby_with_wal_that_the_primary_lacks_is_rewound(three: Recovering) -> None:
    three.stop("pg2")
    three.data("pg2").log += ((1, 99), (1, CHECKPOINT))
    three.recover("pg2")
    assert three.copies == ["rewind pg2 from pg1"]
    assert three.data("pg2").writes == set()
    assert "starting it with its own data" not in three.said, "it could not follow the primary"


def test_a_standby_that_does_not_stream_after_its_start_is_rewound(three: Recovering) -> None:
    three.stop("pg2")
    three.data("pg1").slots -= {"pg2"}
    three.recover("pg2")
    assert three.copies == ["rewind pg2 from pg1"]
    assert any(
        text.startswith("it does not rejoin with its own data: it does not receive from pg1") for text in three.said
    )
    assert three.world.streams(three.world.hosts["pg2"])


def test_a_former_primary_comes_back_as_a_standby_of_its_successor(three: Recovering) -> None:
    three.world.write()
    three.world.crash("pg1")
    with three.world.within("pg2"):
        act.perform(three.here("pg2"), Promote("pg2", 2))
    three.recover("pg1")
    assert three.copies == ["rewind pg1 from pg2"]
    assert three.data("pg1").follows == "pg2"


@pytest.mark.parametrize(
    "break_",
    [
        pytest.param(lambda three: three.remember("pg2", copying="pg1"), id="half a copy"),
        pytest.param(lambda three: setattr(three.world.hosts["pg2"], "data", None), id="no data"),
        pytest.param(lambda three: three.remember("pg2", system=None), id="a new node"),
    ],
)
def test_a_node_without_data_of_the_cluster_is_copied(
    break_: Callable[[Recovering], object], three: Recovering
) -> None:
    three.stop("pg2")
    break_(three)
    three.recover("pg2")
    assert three.copies == ["clone pg2 from pg1"]
    assert three.world.streams(three.world.hosts["pg2"])


def test_databases_that_only_a_new_node_has_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3), primary=1)) as world:
        three = Recovering(world, monkeypatch)
        three.remember("pg1", system=None)
        three.data("pg1").system = 8000
        three.data("pg1").standby = False
        before = repr(three.data("pg1"))
        with pytest.raises(OperationError, match=r"pg1 holds databases that .*: app") as refusal:
            three.recover("pg1")
        assert refusal.value.hint == "pg_dump them and drop them first"
        assert (three.copies, repr(three.data("pg1"))) == ([], before)


def test_a_held_standby_is_released_and_keeps_its_data(three: Recovering) -> None:
    """`recover` is the command that ends `detach`, even if nothing else is to be done."""
    three.remember("pg2", held=True)
    three.recover("pg2")
    assert three.copies == []
    assert not three.world.hosts["pg2"].record.held
    assert three.said == ["pg1 is the primary", "pg2 already follows pg1"]


def test_a_standby_in_use_is_refused_before_anything_changes(three: Recovering) -> None:
    before = three.world.state()
    with pytest.raises(OperationError, match="pg2 needs no recovery"):
        three.recover("pg2")
    assert (three.copies, three.world.state()) == ([], before)


def test_a_forced_recovery_detaches_a_standby_in_use_before_it_is_copied(
    three: Recovering, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed: list[list[str]] = []
    copied = three.world.copy

    def copy(here: Here, source: str, *, member: bool) -> None:
        believed.append(three.world.users("pg2"))
        copied(here, source, member=member)

    monkeypatch.setattr(three.world, "copy", copy)
    three.recover("pg2", force=True)
    assert three.copies == ["clone pg2 from pg1"]
    assert believed == [[]], "no pgpool-II sends no clients to a node that is being copied"


def test_a_recovery_goes_on_although_pgpool_refuses_to_detach_the_node(
    three: Recovering, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detach(*_: object) -> None:
        raise OperationError("pcp: connection refused", hint="")

    monkeypatch.setattr(three.world, "detach", detach)
    three.recover("pg2", force=True)
    assert "detaching pg2" in three.said
    assert three.copies == ["clone pg2 from pg1"]


def test_a_node_that_pgpool_has_given_up_is_not_detached_again(three: Recovering) -> None:
    three.stop("pg2")
    three.recover("pg2")
    assert "detaching pg2" not in three.said


def test_the_primary_itself_is_not_recovered(three: Recovering) -> None:
    with pytest.raises(OperationError, match="pg1 is the primary, the source of all copies") as refusal:
        three.recover("pg1", force=True)
    assert refusal.value.hint.startswith("recover the other nodes")
    assert three.copies == []


def test_without_a_primary_in_sight_nothing_is_copied(three: Recovering) -> None:
    three.world.cut(["pg1"])
    began = three.world.clock
    with pytest.raises(OperationError, match="no primary to copy from is reachable"):
        three.recover("pg2")
    assert 10 <= three.world.clock - began <= 20, "it waits for 10 s"
    assert three.copies == []


def test_a_stalled_standby_is_not_recovered_but_the_cause_is_named() -> None:
    paused = replace(standby("pg2", "pg1"), stalled="its replay is paused")
    pg1 = replace(primary("pg1"), pgpool=pgpool())
    with pytest.raises(OperationError, match="pg2 has its data, but does not replay: its replay is paused") as refusal:
        recovery_plan.refuse_needless(CLUSTER, seen(pg1, paused), pg1, "pg2")
    assert "pg_wal_replay_resume" in refusal.value.hint


# Facts and pgpool-II, one round after the other


class Agent:
    """The agent of pg2: the facts that it collects in each round, and the requests that it sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: Cluster = CLUSTER) -> None:
        self.here = Here(cluster, cluster.named("pg2"), None, Peers({}), Record(system=7000, term=1))
        self.rounds: list[ClusterFacts] = []
        self.asked: list[tuple[str, object]] = []
        self.silent: tuple[type[object], ...] = ()
        """The kinds of requests that fail."""
        self.now = 0.0
        self._served, self._forgotten = False, False
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(waiting, "time", clock)
        monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: self._facts())
        monkeypatch.setattr(Here, "forget_looks", lambda _: self._forget())
        monkeypatch.setattr(Here, "on", lambda _, name, request, **__: self._ask(name, request))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _forget(self) -> None:
        self._forgotten = True

    def _facts(self) -> ClusterFacts:
        """Return the facts of the next round, or those of the last one if they are still kept."""
        if self._served and self._forgotten and len(self.rounds) > 1:
            self.rounds.pop(0)
        self._served, self._forgotten = True, False
        return self.rounds[0]

    def _ask(self, name: str, request: object) -> None:
        self.asked.append((name, request))
        if isinstance(request, self.silent):
            raise ServerError(f"{name} is unreachable", hint="")


@pytest.fixture
def pg2(monkeypatch: pytest.MonkeyPatch) -> Agent:
    return Agent(monkeypatch)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The same where every node is a primary, and a watchdog makes the pgpool-IIs agree."""
    return Agent(monkeypatch, NATIVE)


LED, FOLLOWER = replace(primary("pg1"), pgpool=pgpool("pg2")), replace(standby("pg2", "pg1"), pgpool=None)
OUT, IN = seen(LED, FOLLOWER), seen(replace(LED, pgpool=pgpool()), FOLLOWER)
WATCHED_OUT, WATCHED_IN = seen(LED, primary("pg2")), seen(replace(LED, pgpool=pgpool()), primary("pg2"))
ATTACH = AttachRequest("pg2", recovering=True)


def test_facts_are_collected_again_until_they_are_enough(pg2: Agent) -> None:
    """A node that just booted needs time to see the others."""
    early, late = seen(away("pg1"), FOLLOWER), seen(*healthy())
    pg2.rounds = [early, early, late, early]
    assert pg2.here.look_until(lambda facts: facts.of("pg1").reachable) is late
    assert 0 < pg2.now < 1


def test_nodes_that_all_answer_are_not_asked_again(pg2: Agent) -> None:
    pg2.rounds = [seen(*healthy()), OUT]
    assert pg2.here.look_until(lambda _: False) == seen(*healthy())
    assert pg2.now == 0


def test_the_leader_of_a_watchdog_is_asked_once(native: Agent) -> None:
    native.rounds = [WATCHED_OUT, WATCHED_OUT, WATCHED_OUT, WATCHED_IN]
    attachment.await_attached(native.here, lambda _: None)
    assert native.asked == [("pg1", ATTACH)], "it queues requests, so it gets one"


def test_pgpools_that_follow_the_leader_are_not_asked(native: Agent) -> None:
    follows = replace(primary("pg2"), pgpool=pgpool("pg2", leader=False))
    silent = replace(primary("pg3"), pgpool=None)
    native.rounds = [seen(follows, silent), seen(follows, silent), seen(follows, silent, *WATCHED_IN.nodes.values())]
    attachment.await_attached(native.here, lambda _: None)
    assert native.asked == []


def test_a_node_that_a_leader_does_not_attach_within_a_minute_is_reported(native: Agent) -> None:
    native.silent = (AttachRequest,)
    native.rounds = [WATCHED_OUT]
    with pytest.raises(OperationError, match="pg2 is ready, but pgpool-II has not attached it") as failure:
        attachment.await_attached(native.here, lambda _: None)
    assert failure.value.hint == "pgpoolctl attach pg2"
    assert 60 <= native.now < 61
    assert native.asked == [("pg1", ATTACH)]


def test_the_first_pgpool_in_sight_detaches_a_node_that_does_not_stream(pg2: Agent) -> None:
    broken = orphaned(FOLLOWER)
    pg2.rounds = [seen(replace(LED, pgpool=pgpool()), broken)]
    assert recovery_plan.detacher(CLUSTER, pg2.rounds[0], "pg2", force=False) == "pg1"
    gone = seen(LED, replace(FOLLOWER, pgpool=None))
    assert recovery_plan.detacher(CLUSTER, gone, "pg2", force=True) == "", "it is down for pgpool-II"
    assert recovery_plan.detacher(CLUSTER, IN, "pg2", force=False) == "", "it streams"
    assert recovery_plan.detacher(CLUSTER, IN, "pg2", force=True) == "pg1"


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        (FOLLOWER, Remedy.NOTHING),
        (replace(FOLLOWER, member=False), Remedy.NOTHING),
        (replace(FOLLOWER, half_copied=True), Remedy.COPY),
        (orphaned(FOLLOWER), Remedy.START),
        (replace(orphaned(FOLLOWER), standby_signal=False), Remedy.REJOIN),
        (replace(orphaned(FOLLOWER), member=False, databases=()), Remedy.COPY),
        (NodeFacts("pg2", postgresql=Postgresql.ABSENT, member=True), Remedy.COPY),
    ],
)
def test_a_recovery_does_the_least_that_may_suffice(mine: NodeFacts, expected: Remedy) -> None:
    assert recovery_plan.remedy(LED, mine) is expected
