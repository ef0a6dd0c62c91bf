"""Every change of the users takes effect, whatever else changes them at the same time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.wired import answering

from pgpool_cluster.agent import answers
from pgpool_cluster.agent.checks import checks
from pgpool_cluster.configuration.users import Users, changing
from pgpool_cluster.decision.facts.facts import ClusterFacts, Lsn, NodeFacts, Postgresql
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.errors import ClusterError, OperationError, ServerError, UsageError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations.accounts import roles, user_lists
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import (
    CheckRequest,
    Done,
    Request,
    RoleRequest,
    UserList,
    UserRequest,
    UsersRequest,
)

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}", "cluster.yml", "pg1")


class Others(Peers):
    """The other nodes; `lists` has the list that each of them knows after a change."""

    def __init__(self, lists: dict[str, UserList] | None = None) -> None:
        super().__init__({})
        self.lists = lists or {}

    def ask_all(self, request: Request[Any], *, seconds: float) -> dict[str, Any]:
        del seconds
        assert isinstance(request, UsersRequest)
        return {name: self.lists.get(name) or request.new for name in ("pg2", "pg3")}


class Primary:
    """pg1, which gets requests to change users."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: Others) -> None:
        mine = NodeFacts("pg1", postgresql=Postgresql.UP, member=True, term=3, led=3, system=7, timeline=3,
                         position=Lsn(2000), users=5)  # fmt: skip
        monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: ClusterFacts({"pg1": mine}))
        here = Here(CLUSTER, CLUSTER.named("pg1"), None, others, Record(system=7, term=3, led=3))
        self.answers = answers.Answers(here, threading.RLock(), lambda: None, lambda: [], lambda: None)
        self.said: list[str] = []

    def set(self, name: str) -> None:
        self.answers.do(UserRequest(name, "v", f"entry of {name}", "m"), self.said.append)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Serials in users.json at each request for an `apply`; the roles in `altered` exist."""
    applied: list[int] = []
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    monkeypatch.setattr(units, "control", lambda _: applied.append(Users.load(paths.USERS).serial))
    monkeypatch.setattr(roles, "set_role", lambda *_: time.sleep(0.05))
    Users(5, {}, "m").save(paths.USERS)
    return applied


def test_two_simultaneous_changes_both_take_effect(stored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both used to take the same serial, and the second list was dropped although both reported success."""
    primary = Primary(monkeypatch, Others())
    threads = [threading.Thread(target=primary.set, args=(name,)) for name in ("app", "report")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(Users.load(paths.USERS).entries) == {"app": "entry of app", "report": "entry of report"}
    assert stored == [6, 7]
    assert primary.said == []


def test_a_list_that_is_not_kept_is_reported(stored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A change by another primary, or with another key, came in between."""
    primary = Primary(monkeypatch, Others())
    monkeypatch.setattr(roles, "set_role", lambda *_: Users(9, {"x": "y"}, "m").save(paths.USERS))
    with pytest.raises(OperationError, match="app was not stored"):
        primary.set("app")
    assert stored == []
    assert dict(Users.load(paths.USERS).entries) == {"x": "y"}


def test_a_node_that_keeps_another_list_is_named(stored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    primary = Primary(monkeypatch, Others({"pg3": UserList(6, {"other": "e"}, "m")}))
    primary.set("app")
    assert stored == [6]
    assert [line.split()[0] for line in primary.said] == ["pg3"]


def test_no_change_is_lost_when_apply_rewrites_the_list(stored: list[int]) -> None:
    with changing(paths.USERS):
        storing = threading.Thread(target=user_lists.store_users, args=(Users(6, {"app": "e"}, "m"),))
        storing.start()
        storing.join(0.1)
        assert Users.load(paths.USERS).serial == 5
    storing.join()
    assert Users.load(paths.USERS).serial == 6
    assert stored == [6]


def test_a_node_that_gets_a_list_twice_answers_once_it_is_applied(
    stored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent had just fetched the list itself, so it used to answer before pgpool-II had the list."""
    free, laid = threading.Event(), threading.Event()
    one_at_a_time = threading.Lock()

    def apply(_: str) -> None:
        with one_at_a_time:
            free.wait(5)
            laid.set()

    monkeypatch.setattr(units, "control", apply)
    users = Users(6, {"app": "e"}, "m")
    fetching = threading.Thread(target=user_lists.store_users, args=(users,))
    fetching.start()
    while Users.load(paths.USERS) != users:
        fetching.join(0.01)
    threading.Timer(0.2, free.set).start()
    assert user_lists.store_users(users)
    assert laid.is_set()
    fetching.join()


def test_a_list_that_stays_locked_is_reported(stored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgpool_cluster.configuration.users._LOCK_SECONDS", 0.1)
    with changing(paths.USERS), pytest.raises(ServerError, match="another program is changing"):
        user_lists.store_users(Users(6, {"app": "e"}, "m"))
    assert stored == []


@pytest.mark.parametrize("request_", [RoleRequest('x" SUPERUSER; --'), UserRequest('x" SUPERUSER; --', mark="m")])
def test_a_name_that_could_end_its_quotes_never_reaches_sql(
    request_: Request[Done], stored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`role` comes from another node, and used to be quoted without a check."""
    reached: list[object] = []
    primary = Primary(monkeypatch, Others())
    monkeypatch.setattr(roles, "set_role", lambda *words: reached.append(words))
    with pytest.raises(ClusterError) as caught:
        primary.answers.do(request_, print)
    assert isinstance(caught.value, UsageError)
    assert reached == stored == []


@pytest.mark.parametrize(
    "users", [Users(10**12, {"app": "e"}, "m"), Users(-1, {}, "m"), Users(6, {"pgpool_recovery": "e"}, "m")]
)
def test_a_list_that_no_command_can_have_written_is_not_kept(users: Users, stored: list[int]) -> None:
    """A witness could otherwise replace a role's password in every pool_passwd, or exhaust the serials."""
    with pytest.raises(OperationError, match="no command can have created"):
        user_lists.store_users(users)
    assert stored == []
    assert Users.load(paths.USERS).serial == 5


@pytest.mark.parametrize("said", [{}, {"serial": 9}, {"serial": "x", "entries": {}, "mark": ""},
                                  {"serial": 9, "entries": [], "mark": ""},
                                  {"serial": 9, "entries": {"a:b": "x"}, "mark": ""}])  # fmt: skip
def test_a_node_that_returns_no_list_is_named(said: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    here = Primary(monkeypatch, Others()).answers.here
    here.peers = Peers.of(CLUSTER, "pg1")
    answering(monkeypatch, lambda *_: said)
    with pytest.raises(OperationError, match="pg2 sent an invalid list of users"):
        user_lists.users_of(here, "pg2")


@pytest.mark.parametrize("said", [{}, {"checks": 7}, {"checks": ["x"]}, {"checks": [{"node": "pg2"}]}])
def test_a_node_that_returns_no_checks_is_a_failed_check(
    said: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node out of reach is omitted, because this node's own checks report it."""
    asked = Primary(monkeypatch, Others()).answers
    asked.here.peers = Peers.of(CLUSTER, "pg1")
    mine, third = Check("pg1", "it runs", True), Check("pg3", "it runs", False, "it is down", "start it")
    monkeypatch.setattr(checks, "run", lambda _: [mine])
    answering(monkeypatch, lambda name, _: said if name == "pg2" else {"checks": [third.json]})
    found = asked.do(CheckRequest(all=True), print).checks
    assert {one.node: one.ok for one in found} == {"pg1": True, "pg2": False, "pg3": False}
    assert third in found
    answering(monkeypatch, lambda *_: None)
    assert asked.do(CheckRequest(all=True), print).checks == (mine,)
