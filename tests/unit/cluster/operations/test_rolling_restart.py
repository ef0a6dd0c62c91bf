"""`pgpoolctl restart` on a cluster in memory: the order, the refusals, and a failure in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.world import UNIT, Host, Me, World, at_work, hands, make_cluster

from pgpool_cluster.cli import restart_verb
from pgpool_cluster.decision.actions import Action
from pgpool_cluster.decision.facts import matching, replay
from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.decision.reports.events import EventKind
from pgpool_cluster.decision.restart_plan import RestartKind, RestartStep
from pgpool_cluster.definition.cluster import Cluster, Mode, Node
from pgpool_cluster.ground.errors import ClusterError, OperationError, ServerError, UsageError
from pgpool_cluster.machine import units
from pgpool_cluster.operations import attachment, restarts, rolling_restart, timelines
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport.peers import Progress
from pgpool_cluster.transport.protocol import (
    HoldRequest,
    PauseRequest,
    Request,
    RestartPlanRequest,
    RestartRequest,
    SwitchoverRequest,
)

NAMES = ("pg1", "pg2", "pg3")
NOW = {"max_connections": 100, "max_wal_senders": 16}
MORE, FEWER = {**NOW, "max_connections": 200}, {**NOW, "max_connections": 50}
BOTH = {"max_connections": 200, "max_wal_senders": 10}
STREAMS = Mode.STREAMING_REPLICATION


class Parameters(World):
    """A world whose servers have parameters that a standby must match."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.running: dict[str, Mapping[str, int]] = dict.fromkeys(NAMES, NOW)
        self.configured: dict[str, Mapping[str, int]] = dict.fromkeys(NAMES, NOW)
        self.needed: dict[str, Mapping[str, int]] = dict.fromkeys(NAMES, NOW)
        """The values in each standby's pg_control."""
        self.done: list[str] = []
        """The nodes whose servers have restarted, in order; in brackets if pgpool-II sent clients to a standby."""
        self.broken: set[str] = set()
        """The nodes whose servers do not start."""
        self.faults: dict[str, list[tuple[str, str]]] = {}
        self.idle: set[str] = set()
        """Standbys that replay no change of parameters."""
        self.during: Callable[[str], None] = lambda _: None
        """Called during the restart of a server."""

    def facts(self, name: str) -> NodeFacts:
        found = super().facts(name)
        host = self.hosts[name]
        if host.up:
            low = matching.lower(self.running[name], self.needed[name]) if found.standby else {}
            found = replace(found, settings=self.running[name], needs={one: least for one, (_, least) in low.items()})
            found = replace(found, stalled=replay.too_low(found) or found.stalled)
        assert host.here is not None
        return host.here.marked(found)

    def spread(self) -> None:
        """Let the standbys replay the primary's parameters."""
        for host in self.databases:
            if host.up and host.data and not host.data.standby:
                self.needed |= dict.fromkeys(set(NAMES) - {host.name} - self.idle, self.running[host.name])

    def start_server(self, host: Host) -> None:
        if host.up:
            return
        standby = host.data is not None and host.data.standby
        if host.name in self.broken or (standby and matching.lower(self.configured[host.name], self.needed[host.name])):
            raise OperationError(f"PostgreSQL of {host.name} does not start: max_connections", hint="its log")
        super().start_server(host)
        self.running[host.name] = self.configured[host.name]
        self.spread()

    def end_recovery(self, host: Host) -> None:
        super().end_recovery(host)
        self.spread()

    def restart_unit(self, host: Host) -> None:
        """`systemctl restart postgresql`."""
        used = host.data is not None and host.data.standby and self.users(host.name)
        self.done.append(f"({host.name})" if used else host.name)
        self.stop_server(host)
        self.during(host.name)
        self.pause()
        self.start_unit(host.name)

    def query(self, here: Any, sql: str, *values: object) -> list[tuple[Any, ...]]:
        name = here.me.name
        if "pending_restart" in sql:
            return [(one,) for one in NOW if self.running[name][one] != self.configured[name][one]]
        return super().query(here, sql, *values)

    def step(self, name: str) -> tuple[Action, ...]:
        actions = super().step(name)
        host = self.hosts[name]
        if host.on and host.here is not None:
            with self.within(name):
                timelines.tend(host.here, self.seen())
        return actions

    def configure(self, values: Mapping[str, int]) -> None:
        """`pgpoolctl apply` on every node."""
        self.configured = dict.fromkeys(NAMES, values)


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Parameters], Parameters]]:
    """Put the package's code to work on a world."""
    open_worlds: list[Any] = []

    def work_on(world: Parameters) -> Parameters:
        context = at_work(world)
        open_worlds.append(context)
        context.__enter__()

        def control(verb: str, unit: str = "") -> None:
            if (verb, unit) == ("restart", UNIT):
                world.restart_unit(world.hosts[world.stack[-1]])
            else:
                usual(verb, unit)

        usual = units.control
        labels = matching.CONTROL
        monkeypatch.setattr(units, "control", control)
        monkeypatch.setattr(pg, "configured", lambda _: world.configured[world.stack[-1]])
        monkeypatch.setattr(
            pg, "control_data", lambda _: {labels[one]: str(v) for one, v in world.needed[world.stack[-1]].items()}
        )
        monkeypatch.setattr(restarts, "unstartable", lambda here: world.faults.get(here.me.name, []))
        return world

    yield work_on
    for context in open_worlds:
        context.__exit__(None, None, None)


@pytest.fixture
def world(at: Callable[[Parameters], Parameters]) -> Parameters:
    """Three healthy nodes; pg1 is the primary, and agents act while others wait."""
    found = Parameters.healthy(make_cluster(STREAMS, 3))
    assert isinstance(found, Parameters)
    assert at(found).is_healthy(), found.shown()
    return found


def here(world: World, name: str) -> Me:
    found = world.hosts[name].here
    assert found is not None
    return found


def restart(
    world: Parameters, monkeypatch: pytest.MonkeyPatch, *nodes: str, on: str = "pg2", said: list[str] | None = None,
    pending: bool = False, back: bool = False,
) -> str:  # fmt: skip
    """Run `pgpoolctl restart` on a node, and return its last line. `said`: receives the others."""

    def ask(request: Request[Any], *, seconds: float, progress: Progress) -> Any:
        assert seconds > 60
        with world.within(on):
            return here(world, on).answer(request, progress)

    monkeypatch.setattr(restart_verb, "ask", ask)
    return restart_verb.run(RestartPlanRequest(nodes, pending, back), ([] if said is None else said).append)


def primary(world: World) -> str:
    (name,) = [host.name for host in world.databases if host.up and host.data and not host.data.standby]
    return name


def promotions(world: World) -> list[str]:
    """Return the promotions in the histories of all nodes."""
    found = [event for name in NAMES for event in here(world, name).history.recent(1000, 0.0)[0]]
    return [event.node for event in found if event.kind == EventKind.PROMOTE]


def test_every_node_restarts_once_without_clients_and_the_primary_by_a_switchover(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write()
    said: list[str] = []
    assert restart(world, monkeypatch, said=said) == ("PostgreSQL was restarted on pg2, pg3, pg1; pg2 is the primary")
    assert world.done == ["pg2", "pg3"], "no standby restarted while pgpool-II sent it clients"
    assert [text for text in said if text.startswith("[")] == [
        "[1/3] pg2: restart of a standby",
        "[2/3] pg3: restart of a standby",
        "[3/3] pg1: switchover to pg2, and restart as its standby",
    ]
    assert primary(world) == "pg2"
    assert promotions(world) == ["pg2"]
    assert world.is_healthy(), world.shown()
    assert all(host.data and host.data.writes == {1} for host in world.databases)
    assert all(not host.record.dropped for host in world.databases), "commits still wait for the same standbys"


@pytest.mark.parametrize("name", NAMES)
def test_any_database_node_runs_it(name: str, world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    restart(world, monkeypatch, on=name)
    assert (world.done, primary(world)) == (["pg2", "pg3"], "pg2")


def test_higher_values_reach_the_standbys_first(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure(MORE)
    restart(world, monkeypatch, pending=True)
    assert world.running == dict.fromkeys(NAMES, MORE)
    assert (world.done, primary(world), world.is_healthy()) == (["pg2", "pg3"], "pg2", True)


def test_lower_values_reach_the_primary_first_which_stays_the_primary(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure(FEWER)
    assert restart(world, monkeypatch) == "PostgreSQL was restarted on pg1, pg2, pg3"
    assert world.running == dict.fromkeys(NAMES, FEWER)
    assert (world.done, primary(world), world.is_healthy()) == (["pg1", "pg2", "pg3"], "pg1", True)
    assert promotions(world) == [], "a planned restart of the primary is not a failure"
    assert here(world, "pg1").record.led == here(world, "pg3").record.term == 2, "a primary starts in a new term only"


def test_a_standby_that_has_not_replayed_lower_values_keeps_running(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure(FEWER)
    world.idle = {"pg3"}
    said: list[str] = []
    with pytest.raises(OperationError, match="PostgreSQL of pg3 would not start again: max_connections = 50, and 100"):
        restart(world, monkeypatch, on="pg3", said=said)
    assert said[-1] == "waiting until pg3 has replayed the lower values"
    assert world.done == ["pg1", "pg2"]
    assert world.hosts["pg3"].up
    assert world.is_healthy()


def test_a_change_in_both_directions_restarts_nothing(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    world.configure(BOTH)
    with pytest.raises(OperationError, match="max_wal_senders = 10") as refusal:
        restart(world, monkeypatch)
    assert "restart twice" in refusal.value.hint
    assert world.done == []
    world.configure(MORE)
    restart(world, monkeypatch, pending=True)
    world.configure(BOTH)
    restart(world, monkeypatch, pending=True)
    assert world.running == dict.fromkeys(NAMES, BOTH)


def test_only_nodes_with_pending_parameters_restart(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    assert restart(world, monkeypatch, pending=True) == "no parameter requires a restart"
    world.configured["pg3"] = MORE
    assert restart(world, monkeypatch, pending=True) == "PostgreSQL was restarted on pg3"
    assert world.done == ["pg3"]


def test_the_primary_alone_restarts_by_a_switchover_and_with_back_it_returns(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert restart(world, monkeypatch, "pg1") == "PostgreSQL was restarted on pg1; pg2 is the primary"
    assert (world.done, primary(world)) == ([], "pg2")
    restart(world, monkeypatch, "pg2", back=True)
    assert primary(world) == "pg2"
    assert here(world, "pg2").record.led == here(world, "pg3").record.term == 4
    assert world.is_healthy()


def test_a_standby_with_too_low_values_is_cured(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator restarted the primary first, so its standbys no longer replay."""
    world.running = {**world.running, "pg1": MORE}
    world.configure(MORE)
    world.spread()
    for host in world.hosts.values():
        host.view |= {"pg2": False, "pg3": False}
    assert not world.is_healthy()
    restart(world, monkeypatch, pending=True)
    assert world.done == ["pg2", "pg3"]
    assert world.is_healthy()
    assert primary(world) == "pg1"


def test_the_agents_do_not_attach_a_standby_before_it_restarts(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still streams at that moment."""
    usual = attachment.await_detached

    def slowly(at: Any) -> None:
        usual(at)
        world.pause()
        assert world.users(at.me.name) == []
        assert world.facts(at.me.name).stalled == replay.RESTARTING

    monkeypatch.setattr(attachment, "await_detached", slowly)
    restart(world, monkeypatch, "pg2", "pg3")
    assert world.done == ["pg2", "pg3"]
    assert world.is_healthy()


def test_a_standby_takes_reads_only_once_it_streams(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {"pg2": 3}
    streams, attach, pause = world.streams, world.attach, world.pause
    attached: list[str] = []

    def late() -> None:
        left["pg2"] -= world.done == ["pg2"]
        pause()

    def note(cluster: Cluster, one: Node, **words: bool) -> None:
        assert world.streams(world.hosts[one.name])
        attached.append(one.name)
        attach(cluster, one, **words)

    monkeypatch.setattr(
        world, "streams", lambda host: streams(host) and not (world.done and host.name == "pg2" and left["pg2"] > 0)
    )
    monkeypatch.setattr(world, "pause", late)
    monkeypatch.setattr(world, "attach", note)
    restart(world, monkeypatch, "pg2")
    assert set(attached) == {"pg2"}
    assert left["pg2"] <= 0


# Refusals


@pytest.mark.parametrize(
    ("spoil", "why", "hint"),
    [
        pytest.param(lambda world: world.on("pg1", PauseRequest(True, "root@pg1")), "no server restarts: the cluster is"
                     " paused by root@pg1", "pgpoolctl resume", id="pause"),
        pytest.param(lambda world: world.cut(["pg3"]), "the cluster is not healthy", "pgpoolctl status", id="lost"),
        pytest.param(lambda world: world.on("pg3", HoldRequest(hold=True), "pg1"), "the cluster is not healthy",
                     "pgpoolctl status", id="detached"),
        pytest.param(lambda world: world.faults.update(pg3=[("port: 5432 is written twice", "correct that file")]),
                     "PostgreSQL of pg3 would not start again: port: 5432 is written twice",
                     "correct that file; then pgpoolctl apply on pg3", id="a server would not start"),
    ],
)  # fmt: skip
def test_a_cluster_that_is_not_well_is_refused_before_anything_restarts(
    spoil: Callable[[World], object], why: str, hint: str, world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(world)
    if why == "the cluster is not healthy":
        world.settle(NAMES)
    with pytest.raises(OperationError, match=why) as refusal:
        restart(world, monkeypatch)
    assert hint in refusal.value.hint
    assert world.done == []


def test_unknown_nodes_are_refused(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no node is called 'pg9'"):
        restart(world, monkeypatch, "pg9")


def test_a_witness_restarts_nothing(at: Callable[[Parameters], Parameters], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Parameters.healthy(make_cluster(STREAMS, 2, witness=True))
    assert isinstance(found, Parameters)
    at(found)
    with pytest.raises(OperationError, match="w runs no PostgreSQL, and may not restart that of other nodes"):
        restart(found, monkeypatch, on="w")
    with pytest.raises(OperationError, match="w runs no PostgreSQL"):
        restart(found, monkeypatch, "w")
    requests: tuple[Request[Any], ...] = (
        RestartRequest(RestartStep(RestartKind.STANDBY, "pg2")), SwitchoverRequest("pg2"),
    )  # fmt: skip
    for request in requests:
        with pytest.raises(OperationError, match="because it runs no PostgreSQL"):
            found.on("pg2", request, "w")


def test_a_cluster_in_which_every_node_is_a_primary_is_refused(
    at: Callable[[Parameters], Parameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Parameters.healthy(make_cluster(Mode.NATIVE_REPLICATION, 3))
    assert isinstance(found, Parameters)
    at(found)
    with pytest.raises(OperationError, match="in native_replication, no node can take the place") as refusal:
        restart(found, monkeypatch)
    assert "node by node: systemctl restart postgresql" in refusal.value.hint


def test_a_plan_that_is_out_of_date_does_nothing(world: Parameters) -> None:
    for kind, name, why in (
        (RestartKind.STANDBY, "pg1", "pg1 is not a standby any more"),
        (RestartKind.PRIMARY, "pg2", "pg2 is not the primary any more"),
        (RestartKind.SWITCHOVER, "pg2", "pg2 is not the primary any more"),
    ):
        with pytest.raises(OperationError, match=why):
            world.on(name, RestartRequest(RestartStep(kind, name, "pg3")))
    assert (world.done, primary(world)) == ([], "pg1")


@pytest.mark.parametrize(("kind", "name"), [(RestartKind.STANDBY, "pg3"), (RestartKind.PRIMARY, "pg1")])
def test_a_server_whose_files_have_an_error_meanwhile_keeps_running(
    kind: RestartKind, name: str, world: Parameters
) -> None:
    world.faults[name] = [("port: 5432 is written twice", "correct that file")]
    with pytest.raises(OperationError, match=f"PostgreSQL of {name} would not start again"):
        world.on(name, RestartRequest(RestartStep(kind, name)))
    assert (world.done, world.is_healthy()) == ([], True)


def test_two_standbys_do_not_restart_at_once(world: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling_restart, "await_ready", lambda *_, **__: world.seen())
    with (
        here(world, "pg3").under_way.restarting,
        pytest.raises(OperationError, match="pg3 restarts at the same time"),
    ):
        restart(world, monkeypatch, "pg2")
    assert world.done == []


# Failures in the middle


def test_a_standby_that_does_not_start_stops_the_restart_with_the_way_on(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.broken = {"pg3"}
    with pytest.raises(ClusterError) as failure:
        restart(world, monkeypatch, back=True)
    assert failure.value.message == (
        "PostgreSQL of pg3 does not start: max_connections; restarted: pg2; not restarted: pg3, pg1"
    )
    assert failure.value.hint == "its log; then pgpoolctl restart pg3 pg1 --back"
    assert (primary(world), world.hosts["pg2"].up) == ("pg1", True)
    world.broken.clear()
    world.settle(NAMES)
    assert world.is_healthy(), "the agent of pg3 starts its server, and pgpool-II attaches it"
    restart(world, monkeypatch, "pg3", "pg1")
    assert primary(world) == "pg2"


def test_the_node_that_waits_takes_no_reads_and_is_attached_after_a_crash_of_its_agent(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def during(name: str) -> None:
        seen.append(f"{name} {world.users(name)}")
        raise ServerError("the agent has crashed", hint="systemctl status pgpool2-cluster")

    world.during = during
    with pytest.raises(ServerError, match="the agent has crashed"):
        restart(world, monkeypatch)
    assert seen == ["pg2 []"]
    world._start_agent(world.hosts["pg2"])
    world.settle(NAMES)
    assert world.is_healthy(), world.shown()


def test_an_interrupted_command_names_the_command_for_the_rest(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the wait for pg2, which its own agent completes."""

    def during(_: str) -> None:
        raise KeyboardInterrupt

    world.during = during
    with pytest.raises(OperationError, match="interrupted: pg2 completes its restart; restarted: pg2; not") as ended:
        restart(world, monkeypatch)
    assert ended.value.hint == "pgpoolctl wait; then pgpoolctl restart pg3 pg1"


def test_after_the_first_of_two_switchovers_only_the_way_back_is_left(
    world: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = rolling_restart.refuse_unless_primary

    def once(at: Any) -> None:
        usual(at)
        if at.me.name == "pg2":
            raise OperationError("pg2 is busy", hint="wait")

    monkeypatch.setattr(rolling_restart, "refuse_unless_primary", once)
    with pytest.raises(OperationError, match="pg2 is busy") as failure:
        restart(world, monkeypatch, "pg1", back=True)
    assert failure.value.hint == "wait; then pgpoolctl switchover pg1"
