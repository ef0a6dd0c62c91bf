"""Every request to an agent is handled or forwarded to the right node, in the cluster in memory (world.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.world import UNIT, Acting, Wires, World, at_work, hands, make_cluster

from pgpool_cluster.agent import rights
from pgpool_cluster.agent.answers import Answers
from pgpool_cluster.agent.checks import checks
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.decision import recovery_plan
from pgpool_cluster.decision.facts.facts import Standing, WatchdogState
from pgpool_cluster.decision.facts.pause import Pause
from pgpool_cluster.decision.restart_plan import RestartKind, RestartStep
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.errors import OperationError, UsageError
from pgpool_cluster.machine import pgpool, units
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import restarts, rolling_restart, takeover
from pgpool_cluster.operations.accounts import roles
from pgpool_cluster.operations.restarts import Waiting
from pgpool_cluster.recovery import main_node, sessions, target, two_stages
from pgpool_cluster.transport import protocol
from pgpool_cluster.transport.peers import Progress
from pgpool_cluster.transport.protocol import (
    AttachRequest,
    CancelActiveAnswer,
    CancelActiveRequest,
    CheckAnswer,
    CheckRequest,
    ClockRequest,
    ClusterHistoryRequest,
    ConvergeAnswer,
    ConvergeRequest,
    CopyRequest,
    DetachRequest,
    Done,
    EndQueueRequest,
    ExcuseAnswer,
    ExcuseRequest,
    FailoverAnswer,
    FailoverRequest,
    FirstStageRequest,
    FollowRequest,
    GoOnRequest,
    HistoryRequest,
    HoldRequest,
    LetGoRequest,
    LookRequest,
    MayStartAnswer,
    MayStartRequest,
    NoteAnswer,
    NotePauseRequest,
    NoteRequest,
    PauseRequest,
    PcpRecoveryRequest,
    PendingAnswer,
    PendingRequest,
    PromoteRequest,
    QueueRequest,
    RecoverRequest,
    Request,
    RestartPlanAnswer,
    RestartPlanRequest,
    RestartRequest,
    RoleRequest,
    SecondStageRequest,
    SilentAnswer,
    SilentRequest,
    StandingRequest,
    StartRequest,
    StatusRequest,
    SwitchoverAnswer,
    SwitchoverRequest,
    TakeBackRequest,
    TakeUpRequest,
    TermAnswer,
    TermRequest,
    UserList,
    UserRequest,
    UsersRequest,
    WaitingAnswer,
    WaitingRequest,
    WatchRequest,
    WhyRequest,
)

STREAMS, NATIVE = Mode.STREAMING_REPLICATION, Mode.NATIVE_REPLICATION
STAGES = ((main_node, "first_stage"), (main_node, "second_stage"), (target, "copy"), (target, "take_up"))
INSTANCE = UNIT.split("@")[1].split(".")[0]


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    monkeypatch.setattr(roles, "set_role", lambda *_: None)
    monkeypatch.setattr(units, "control", lambda *_: None)


@pytest.fixture
def world() -> Iterator[World]:
    """A healthy cluster of three nodes, with pg1 as the primary."""
    with at_work(World.healthy(make_cluster(STREAMS, 3))) as found:
        yield found


@pytest.fixture
def native() -> Iterator[World]:
    """A healthy cluster of three nodes, each of which is a primary."""
    with at_work(World.healthy(make_cluster(NATIVE, 3))) as found:
        yield found


@pytest.fixture
def handed_on(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Requests to other nodes, which answer each one with success."""
    found: list[tuple[str, object]] = []

    def ask(_: Wires, name: str, request: Request[Any], **__: object) -> object:
        found.append((name, request))
        answers: dict[type[Request[Any]], object] = {
            SwitchoverRequest: SwitchoverAnswer("pg9"), NoteRequest: NoteAnswer("busy"),
            UsersRequest: UserList(0, {}, ""), CheckRequest: CheckAnswer((Check(name, "it runs", True),)),
        }  # fmt: skip
        return answers.get(type(request), Done())

    monkeypatch.setattr(Wires, "ask", ask)
    return found


def here(world: World, name: str) -> Here:
    found = world.hosts[name].here
    assert found is not None
    return found


# Every request


EACH: list[Request[Any]] = [
    LookRequest(fresh=True), NoteRequest(), CheckRequest(), ClockRequest(), StandingRequest(), SilentRequest(),
    PendingRequest(), RestartPlanRequest(), RestartRequest(RestartStep(RestartKind.STANDBY, "pg1")),
    StatusRequest(), WaitingRequest(), ConvergeRequest(), MayStartRequest(INSTANCE), WatchRequest(), WhyRequest("why"),
    TermRequest(5), ExcuseRequest(5, 1, (), "f"), HoldRequest(hold=False), FollowRequest("pg1"), UsersRequest(),
    RoleRequest("app"), UserRequest("app", "v", "e", ""), TakeBackRequest("pg2"), StartRequest("pg1"),
    LetGoRequest("pg2"), QueueRequest(5.0), EndQueueRequest("pg2"), EndQueueRequest(),
    FailoverRequest(1), CancelActiveRequest(1e9), PromoteRequest(6), PcpRecoveryRequest("pg2"),
    FirstStageRequest(1), SecondStageRequest(1), CopyRequest("pg2"), TakeUpRequest("pg2", "0/0", 5),
    RecoverRequest("pg2", force=True), SwitchoverRequest("pg2"), AttachRequest("pg2", recovering=True),
    DetachRequest("pg3", recovering=True), GoOnRequest(),
    NotePauseRequest(Pause(1, True, 7.0, "root@pg1", ""), "f"), PauseRequest(True, "root@pg1", "new switches"),
    HistoryRequest(3), ClusterHistoryRequest(3),
]  # fmt: skip


def test_every_request_is_covered() -> None:
    assert {type(request) for request in EACH} == set(protocol.REQUESTS.values())


@pytest.mark.parametrize("request_", EACH, ids=lambda request: request.do)
def test_every_answer_has_the_type_that_its_request_declares(
    request_: Request[Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_stages, "pcp_recovery", lambda *_: None)
    for module, name in STAGES:
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(sessions, "cancel_active", lambda *_: 3)
    monkeypatch.setattr(checks, "run", lambda _: [])
    monkeypatch.setattr(restarts, "waiting", lambda _: Waiting((), {}, UNIT))
    monkeypatch.setattr(restarts, "pending", lambda _: PendingAnswer((), {}))
    monkeypatch.setattr(rolling_restart, "plan", lambda *_: RestartPlanAnswer(()))
    monkeypatch.setattr(rolling_restart, "standby", lambda *_: None)
    monkeypatch.setattr(pgpool, "standing", lambda _: Standing(True, WatchdogState.LEADER))
    monkeypatch.setattr("pgpool_cluster.agent.answers.time.time", lambda: 7.0, raising=False)
    monkeypatch.setattr(takeover, "fail_over", lambda *_: ())
    monkeypatch.setattr(takeover, "go_on", lambda *_: None)
    monkeypatch.setattr(recovery_plan, "refuse_needless", lambda *_: None)
    answer = world.on("pg1", request_)
    assert isinstance(answer, protocol.answer_of(type(request_)))


def test_a_request_reserved_for_local_programs_is_refused_to_other_nodes(world: World, handed_on: list[object]) -> None:
    for kind in rights.MAY_ASK:
        if rights.MAY_ASK[kind] is rights.Asker.HERE:
            request = next((one for one in EACH if type(one) is kind), FirstStageRequest(1))
            with pytest.raises(OperationError, match="only programs on the node itself"):
                world.on("pg1", request, "pg2")
    assert handed_on == []


# Between nodes


def test_a_term_is_recorded_once_and_only_from_a_node_with_the_same_cluster_yml(world: World) -> None:
    print_ = world.cluster.fingerprint
    assert world.on("pg2", TermRequest(5, "other"), "pg1") == TermAnswer(taken=False, excuse=(0, 0))
    assert world.on("pg2", TermRequest(5, print_), "pg1") == TermAnswer(taken=True, excuse=(0, 0))
    assert world.on("pg2", TermRequest(5, print_), "pg1") == TermAnswer(taken=False, excuse=(0, 0))
    assert (here(world, "pg2").record.term, here(world, "pg2").record.led) == (5, 0)
    assert world.on("pg2", TermRequest(6), "pg1").taken  # a node with an older package sends no fingerprint
    here(world, "pg2").remember(apart=True)
    assert world.hosts["pg2"].record.loss == 0
    assert world.on("pg2", TermRequest(7, print_, serves=True, restart=3, loss=True), "pg1").taken
    assert world.hosts["pg2"].record.loss == 7
    record = here(world, "pg2").record
    assert (record.term, record.led, record.restart, record.apart) == (7, 7, 3, False)


def test_an_excuse_is_recorded_only_from_a_node_with_the_same_cluster_yml(world: World) -> None:
    same = ExcuseRequest(1, 2, ("pg3",), world.cluster.fingerprint)
    assert world.on("pg2", ExcuseRequest(1, 2, ("pg3",), "other"), "pg1") == ExcuseAnswer(taken=False)
    assert world.on("pg2", same, "pg1") == ExcuseAnswer(taken=True)
    assert here(world, "pg2").record.excuse.names == ("pg3",)


def test_a_note_combines_the_notes_of_decisions_and_chores(world: World) -> None:
    pg2 = here(world, "pg2")
    assert world.on("pg2", NoteRequest(), "pg1") == NoteAnswer("")
    pg2.note.publish("it waits")
    pg2.chores.publish("a chore fails")
    assert world.on("pg2", NoteRequest(), "pg1") == NoteAnswer("it waits; a chore fails")


def test_a_report_has_the_notes_of_all_nodes_and_why_one_is_out_of_reach(world: World) -> None:
    here(world, "pg1").note.publish("mine")
    here(world, "pg2").note.publish("theirs")
    world.cut(["pg3"])
    found = world.on("pg1", StatusRequest())
    assert (found.notes["pg1"], found.notes["pg2"]) == ("mine", "theirs")
    assert found.notes["pg3"].startswith("out of reach; hint: ")
    assert not found.healthy


def test_holds_failures_and_silent_hosts_are_kept_for_other_nodes(world: World) -> None:
    pg2 = here(world, "pg2")
    world.on("pg2", HoldRequest(hold=True), "pg1")
    assert pg2.record.held
    world.on("pg2", HoldRequest(hold=False), "pg1")
    assert not pg2.record.held
    with pg2.under_way.rebuilding.stage(60):
        pass
    world.on("pg2", WhyRequest("pg1 has no room"), "pg1")
    assert (pg2.under_way.rebuilding.failure, pg2.under_way.promoting) == ("pg1 has no room", False)
    pg2.under_way.mute.publish(frozenset({"pg3"}))
    assert world.on("pg2", SilentRequest(), "pg1") == SilentAnswer(frozenset({"pg3"}))


def test_a_database_node_may_request_a_promotion_or_a_new_primary_to_follow(world: World) -> None:
    world.cut(["pg1"])
    world.on("pg2", PromoteRequest(2, None), "pg3")
    assert here(world, "pg2").record.led == 2
    world.on("pg3", FollowRequest("pg2"), "pg2")
    assert world.hosts["pg3"].data.follows == "pg2"  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no node is called 'pg9'"):
        world.on("pg3", FollowRequest("pg9"), "pg2")


# Hooks


def test_failover_returns_its_actions(world: World, native: World) -> None:
    native.cut(["pg1"])
    assert native.on("pg2", FailoverRequest(0)) == FailoverAnswer(("dismiss pg1 term 2",))
    with pytest.raises(UsageError, match="no node has the id 9"):
        native.on("pg2", FailoverRequest(9))


def test_another_server_may_always_start(world: World) -> None:
    world.cut(["pg2"])
    assert world.on("pg1", MayStartRequest("17-other")) == MayStartAnswer(go=True)
    with here(world, "pg1").under_way.starting:
        assert world.on("pg1", MayStartRequest(INSTANCE)) == MayStartAnswer(go=True)


def test_an_incomplete_copy_may_not_start(world: World) -> None:
    here(world, "pg2").remember(copying="pg1")
    found = world.on("pg2", MayStartRequest(INSTANCE))
    assert found == MayStartAnswer(go=False, why="its copy of pg1 is incomplete")


def test_a_former_primary_may_start_in_a_new_term_only_with_a_majority(world: World) -> None:
    world.crash("pg1")
    world.cut(["pg2", "pg3"])
    found = world.on("pg1", MayStartRequest(INSTANCE))
    assert not found.go
    assert found.why
    for name in ("pg2", "pg3"):
        world.boot(name)
    found = world.on("pg1", MayStartRequest(INSTANCE))
    assert (found.go, found.why) == (True, f"resume pg1 term {here(world, 'pg1').record.term}")


# Forwarded requests


@pytest.mark.parametrize(
    ("at", "request_", "then"),
    [
        ("pg1", RecoverRequest("pg3", force=True), ("pg3", RecoverRequest("pg3", force=True))),
        ("pg2", SwitchoverRequest("pg3"), ("pg1", SwitchoverRequest("pg3"))),
        ("pg2", SwitchoverRequest(), ("pg1", SwitchoverRequest("pg2"))),
        ("pg2", SwitchoverRequest("pg3", accept_loss=True), ("pg3", SwitchoverRequest("pg3", accept_loss=True))),
        ("pg2", UserRequest("app"), ("pg1", UserRequest("app"))),
        ("pg1", StartRequest("10.0.0.3"), ("pg3", StartRequest("10.0.0.3"))),
        ("pg1", FirstStageRequest(2), ("pg3", RecoverRequest("pg3", attach=False))),
    ],
)
def test_a_request_is_forwarded_to_the_node_that_it_concerns(
    at: str, request_: Request[Any], then: object, world: World, handed_on: list[tuple[str, object]]
) -> None:
    world.on(at, request_)
    assert handed_on == [then]


def test_an_unknown_node_is_refused(world: World, handed_on: list[tuple[str, object]]) -> None:
    asked: list[Request[Any]] = [
        RecoverRequest("pg9"), SwitchoverRequest("pg9"), TakeBackRequest("pg9"), PcpRecoveryRequest("pg9"),
    ]  # fmt: skip
    for request in asked:
        with pytest.raises(UsageError, match="no node is called 'pg9'"):
            world.on("pg1", request)
    with pytest.raises(UsageError, match=r"no node has the name or address 10\.0\.0\.99"):
        world.on("pg1", StartRequest("10.0.0.99"))
    assert handed_on == [("pg2", WatchRequest()), ("pg3", WatchRequest())]


def test_a_node_that_a_second_stage_has_made_a_primary_is_not_started_again(
    native: World, handed_on: list[object]
) -> None:
    with here(native, "pg1").under_way.drain.finishing("pg2"):
        pass
    native.on("pg1", StartRequest("10.0.0.2"))
    assert handed_on == []
    native.on("pg1", StartRequest("10.0.0.2"))
    assert handed_on == [("pg2", StartRequest("10.0.0.2"))]


def test_a_check_of_all_nodes_requests_the_checks_of_each_one(
    world: World, handed_on: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "run", lambda _: [Check("pg1", "it runs", True)])
    assert world.on("pg1", CheckRequest()).checks == (Check("pg1", "it runs", True),)
    assert handed_on == []
    found = world.on("pg1", CheckRequest(all=True)).checks
    assert {one.node for one in found} == {"pg1", "pg2", "pg3"}
    assert [request for _, request in handed_on] == [CheckRequest()] * 2


# A recovery in two stages


def test_all_nodes_watch_when_pgpool_is_asked_to_recover_one(
    native: World, handed_on: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(two_stages, "pcp_recovery", lambda _, name: ran.append(name))
    native.on("pg1", PcpRecoveryRequest("pg3"))
    assert (ran, handed_on) == (["pg3"], [("pg2", WatchRequest()), ("pg3", WatchRequest())])


def test_the_stages_run_on_the_node_that_receives_the_request(native: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[object, ...]] = []
    for module, name in STAGES:
        monkeypatch.setattr(module, name, lambda _, *words, of=name: ran.append((of, *words[:-1])))
    native.on("pg1", FirstStageRequest(2))
    native.on("pg1", SecondStageRequest(2))
    native.on("pg3", CopyRequest("pg1"), "pg1")
    native.on("pg3", TakeUpRequest("pg1", "0/3000060", 4), "pg1")
    assert ran == [("first_stage", "pg3"), ("second_stage", "pg3"), ("copy", "pg1"),
                   ("take_up", "pg1", "0/3000060", 4)]  # fmt: skip


def test_a_request_to_cancel_statements_returns_their_number(native: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "cancel_active", lambda _, since: int(since))
    assert native.on("pg1", CancelActiveRequest(4.0), "pg2") == CancelActiveAnswer(4)


# Users


def test_a_list_of_users_is_accepted_from_a_database_node_only(world: World) -> None:
    new = UserList(9, {"app": "e"}, "")
    with pytest.raises(OperationError, match="gone may not send 'user'"):
        world.on("pg2", UsersRequest(new), "gone")
    assert world.on("pg2", UsersRequest(), "gone") == UserList(0, {}, "")
    assert world.on("pg2", UsersRequest(new), "pg1") == new
    assert Users.load(paths.USERS) == Users(9, {"app": "e"}, "")


@pytest.mark.parametrize("new", [UserList(9, {"a:b": "e"}, ""), UserList(9, {"app": "two\nlines"}, "")])
def test_a_list_with_a_line_that_pool_passwd_cannot_have_is_refused(new: UserList, world: World) -> None:
    with pytest.raises(UsageError, match="invalid entry in a list"):
        world.on("pg2", UsersRequest(new), "pg1")
    assert Users.load(paths.USERS) == Users()


def test_if_every_node_is_a_primary_each_one_gets_the_role(native: World, handed_on: list[tuple[str, object]]) -> None:
    native.on("pg1", UserRequest("app", "v", "e", ""))
    roles = [(name, request) for name, request in handed_on if isinstance(request, RoleRequest)]
    assert roles == [("pg2", RoleRequest("app", "v")), ("pg3", RoleRequest("app", "v"))]
    new = UsersRequest(UserList(1, {"app": "e"}, ""))
    assert [one for one in handed_on if isinstance(one[1], UsersRequest)] == [("pg2", new), ("pg3", new)]


def test_without_a_primary_no_user_is_changed(world: World) -> None:
    world.crash("pg1")
    with pytest.raises(OperationError, match="no primary is reachable"):
        world.on("pg2", UserRequest("app"))


# Programs on the node


def test_requests_for_the_agent_itself_call_its_functions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    waiting = Waiting(("max_connections",), {}, UNIT)
    monkeypatch.setattr(restarts, "waiting", lambda _: waiting)
    answers = Answers(
        here(world, "pg1"), threading.RLock(), lambda: done.append("woken"), lambda: ["attach pg2"],
        lambda: done.append("watches"),
    )  # fmt: skip
    progress: Progress = done.append
    assert answers.do(ConvergeRequest(), progress) == ConvergeAnswer(("attach pg2",))
    assert answers.do(WaitingRequest(), progress) == WaitingAnswer(str(waiting))
    answers.do(WatchRequest(), progress, "pg2")
    assert done == ["watches"]


def test_a_node_that_follows_a_new_primary_decides_at_once(world: World) -> None:
    """Its pgpool-II must send writes to that primary, too."""
    done: list[str] = []
    answers = Answers(here(world, "pg3"), threading.RLock(), lambda: done.append("woken"), list, lambda: None)
    with world.within("pg3"), Acting(world, "pg3"):
        answers.do(FollowRequest("pg2"), lambda _: None, "pg2")
    assert done == ["woken"]
