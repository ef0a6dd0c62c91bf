"""The agent's loop: its actions, log lines and notes when a step succeeds, waits or fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, healthy, pgpool, seen
from tests.unit.eventually import eventually

from pgpool_cluster.agent import agent
from pgpool_cluster.agent.agent import Agent
from pgpool_cluster.agent.housekeeping import Housekeeping
from pgpool_cluster.configuration.rehearsal import before
from pgpool_cluster.decision.actions import (
    Action,
    Attach,
    Detach,
    DropAddress,
    Fence,
    Follow,
    Redirect,
    Refuse,
    Start,
    Stop,
    Wait,
)
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.decision.facts.pause import Pause
from pgpool_cluster.decision.liveness.links import LinkState
from pgpool_cluster.decision.reports.events import EventKind
from pgpool_cluster.definition.cluster import Cluster, Node
from pgpool_cluster.ground import files, log, paths
from pgpool_cluster.ground.errors import ClusterError, OperationError, ServerError, UsageError
from pgpool_cluster.machine import pgpool as pools
from pgpool_cluster.machine import pool_children, server, units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node import recording
from pgpool_cluster.node.client_queue import ClientQueue
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act, upgrade
from pgpool_cluster.operations.accounts.roles import Roles
from pgpool_cluster.recovery.vigil import Vigil
from pgpool_cluster.transport import pulse
from pgpool_cluster.transport.channel import ask
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import ConvergeRequest, NoteAnswer, NoteRequest, WatchRequest

WELL = seen(*(replace(one, pgpool=pgpool(leader=one.node == "pg1")) for one in healthy()))


class Program:
    """The agent of pg1. `wants` are the actions that it decides on; `fails` has the errors of actions that fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wants: tuple[Action, ...] = ()
        self.fails: dict[Action, Exception] = {}
        self.done: list[Action] = []
        self.logged: list[str] = []
        self.status: list[str] = []
        self.facts: ClusterFacts | Exception = WELL
        self.here = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(system=7000, term=1, led=1))
        monkeypatch.setattr(agent, "decide", lambda *_: self.wants)
        monkeypatch.setattr(agent, "confirmed", lambda actions, _: actions)
        for write in ("info", "warning", "error"):
            monkeypatch.setattr(log, write, self.logged.append)
        monkeypatch.setattr(agent, "notify", self.status.append)
        monkeypatch.setattr(act, "perform", self._perform)
        monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: self._seen())
        monkeypatch.setattr(Here, "look", lambda _: WELL.of("pg1"))
        monkeypatch.setattr(Housekeeping, "keep", lambda *_: "a chore fails")
        self.agent = Agent(self.here)

    def _seen(self) -> ClusterFacts:
        if isinstance(self.facts, Exception):
            raise self.facts
        return self.facts

    def _perform(self, _: Here, action: Action) -> None:
        if action in self.fails:
            raise self.fails[action].with_traceback(None)
        self.done.append(action)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(monkeypatch)


# One step


def test_decided_actions_are_performed_each_time_and_logged_once(program: Program) -> None:
    program.wants = (Start("pg1"),)
    assert program.agent.step()
    assert program.agent.step()
    assert program.done == [Start("pg1")] * 2
    assert program.logged == ["start pg1"]
    assert program.here.chores.value == "a chore fails"


def test_waiting_and_refusing_only_leave_a_note(program: Program) -> None:
    program.wants = (Wait("pg1", "pg2 is away"), Refuse("pg1", "two clusters", "remove one"))
    assert program.agent.step()
    program.agent.step()
    note = "waits: pg2 is away; stops here: two clusters; hint: remove one"
    assert (program.here.note.value, program.done, program.logged) == (note, [], [note])
    assert program.status == [f"STATUS={note}"]


def test_a_healthy_state_is_logged_once(program: Program) -> None:
    assert not program.agent.step()
    program.agent.step()
    assert (program.here.note.value, program.logged) == ("", ["nothing to do on this node"])


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (OperationError("no majority", hint="pgpoolctl status"), "no majority; hint: pgpoolctl status"),
        (psycopg2.OperationalError("server closed the connection\n"), "PostgreSQL: server closed the connection"),
        (KeyError("pg9"), "KeyError: 'pg9'"),
    ],
)
def test_a_failed_step_is_logged_once_and_does_not_stop_the_loop(error: Exception, note: str, program: Program) -> None:
    program.wants, program.fails = (Start("pg1"),), {Start("pg1"): error}
    assert not program.agent.step()
    assert program.here.note.value == note
    program.agent.step()
    assert len(program.logged) == 2  # the action and its error, each once
    program.fails = {}
    assert program.agent.step()
    assert program.done == [Start("pg1")]


def test_without_facts_the_note_of_the_chores_is_kept(program: Program) -> None:
    program.facts = OperationError("it cannot collect its own facts", hint="dmesg")
    program.here.chores.publish("as before")
    assert not program.agent.step()
    assert (program.here.note.value, program.here.chores.value) == (
        "it cannot collect its own facts; hint: dmesg",
        "as before",
    )


def test_chores_run_although_an_action_fails(program: Program) -> None:
    program.wants, program.fails = (Start("pg1"),), {Start("pg1"): OperationError("no", hint="")}
    program.agent.step()
    assert program.here.chores.value == "a chore fails"


def test_a_node_that_cannot_be_attached_does_not_block_other_attachments(program: Program) -> None:
    program.wants = (Attach("pg2"), Attach("pg3"))
    program.fails = {Attach("pg2"): OperationError("pg2 rejects every login", hint="see there")}
    assert not program.agent.step()
    assert program.done == [Attach("pg3")]
    assert program.here.note.value == "pg2 rejects every login; hint: see there"


def test_an_address_that_cannot_be_dropped_does_not_keep_the_node_from_being_fenced(program: Program) -> None:
    program.wants = (DropAddress("pg1", "alone"), Fence("pg1", "alone"))
    program.fails = {DropAddress("pg1", "alone"): OperationError("root does not answer", hint="systemctl status")}
    assert not program.agent.step()
    assert program.done == [Fence("pg1", "alone")]
    assert program.here.note.value == "root does not answer; hint: systemctl status"


def test_actions_for_the_database_and_for_pgpool_do_not_stop_each_other(program: Program) -> None:
    """Only this agent informs the pgpool-II of its node."""
    program.wants = (Start("pg1"), Follow("pg1", "pg2"), Redirect("pg1", "pg2"), Detach("pg3", "it is down"))
    program.fails = {Start("pg1"): OperationError("no", hint="")}
    assert not program.agent.step()
    assert program.done == [Redirect("pg1", "pg2"), Detach("pg3", "it is down")]
    assert program.here.note.value == "no; hint: "
    program.wants = (Redirect("pg1", "pg2"), Detach("pg3", "it is down"), Start("pg1"))
    program.fails = {Redirect("pg1", "pg2"): OperationError("pcp hangs", hint="")}
    program.agent.step()
    assert program.done[2:] == [Start("pg1")]


def test_where_every_node_is_a_primary_a_failed_action_ends_the_step(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.here, "cluster", NATIVE)
    program.wants = (Start("pg1"), Attach("pg3"))
    program.fails = {Start("pg1"): OperationError("no", hint="")}
    program.agent.step()
    assert program.done == []


def test_pgpool_gets_the_same_attach_request_only_after_a_pause(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pgpool-II queues such requests while it searches for a primary."""
    now = time.monotonic()
    monkeypatch.setattr("pgpool_cluster.agent.agent.time.monotonic", lambda: now)
    program.wants = (Attach("pg2"),)
    program.agent.step()
    program.agent.step()
    assert program.done == [Attach("pg2")]
    now += agent.TOLD_SECONDS + 1
    program.agent.step()
    assert program.done == [Attach("pg2")] * 2
    program.wants = (Detach("pg2", "it lags"),)
    program.agent.step()
    program.wants = (Attach("pg2"),)
    program.agent.step()
    assert program.done[2:] == [Detach("pg2", "it lags"), Attach("pg2")]


def test_the_policy_depends_on_the_agents_uptime_and_on_recent_primaries(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = program.agent.began
    monkeypatch.setattr("pgpool_cluster.agent.agent.time.monotonic", lambda: now)
    program.agent.step()
    assert program.agent._policy.patient
    assert program.agent._policy.lately == {"pg1"}
    now += agent.PATIENCE_SECONDS + 1
    assert not program.agent._policy.patient
    assert program.agent._policy.lately == frozenset()


def test_a_decision_that_needs_confirmation_is_repeated_with_fresh_facts(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_CONFIRM_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(agent, "confirmed", lambda _, again: again())
    program.wants = (Start("pg1"),)
    program.agent.step()
    assert program.done == [Start("pg1")]


def test_a_pause_holds_actions_back_and_every_note_names_it(program: Program) -> None:
    pause = Pause(1, True, 7.0, "root@pg2", "new switches")
    program.facts = ClusterFacts({**WELL.nodes, "pg2": replace(WELL.of("pg2"), pause=pause)})
    recorded: list[Pause] = []

    def note_pause(here: Here, pause: Pause) -> bool:
        recorded.append(pause)
        here.record = here.record.with_changes(pause=pause)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Here, "note_pause", note_pause)
        program.wants = (Stop("pg1", "pg2 is the primary"), Wait("pg1", "pg3 is away"))
        program.agent.step()
        assert (program.done, recorded) == ([], [pause])
        note = program.here.note.value
        assert note == (
            "the cluster is paused by root@pg2: new switches; held back: stop pg1: pg2 is the primary; "
            "hint: pgpoolctl resume; waits: pg3 is away"
        )
        assert program.logged[-1] == note
        program.facts = ClusterFacts(
            {**WELL.nodes, "pg2": replace(WELL.of("pg2"), pause=Pause(2, False, 8.0, "root@pg2", ""))}
        )
        program.agent.step()
    assert program.done == [Stop("pg1", "pg2 is the primary")]


def test_a_second_decision_in_a_pause_holds_back_as_much_as_the_first(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_CONFIRM_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(agent, "confirmed", lambda _, again: again())
    program.here.record = program.here.record.with_changes(pause=Pause(1, True, 7.0, "root@pg1", ""))
    program.wants = (Stop("pg1", "pg2 is the primary"),)
    program.agent.step()
    assert program.done == []


def test_a_state_that_needs_an_administrator_is_an_event_once(program: Program) -> None:
    program.wants = (Refuse("pg1", "two clusters", "remove one"),)
    for _ in range(3):
        program.agent.step()
    (event,) = program.here.history.recent(9)[0]
    assert (event.kind, event.what) == ("needs-administrator", "stops here: two clusters; hint: remove one")


def test_once_returns_a_line_for_each_action_and_raises_errors(program: Program) -> None:
    program.wants = (Start("pg1"), Wait("pg1", "pg2 is away"))
    assert program.agent.once() == ["start pg1", "waits: pg2 is away"]
    program.fails = {Start("pg1"): OperationError("no", hint="")}
    with pytest.raises(OperationError, match="no"):
        program.agent.once()


def test_reachable_nodes_that_send_no_heartbeats_are_noted(program: Program) -> None:
    facts = {**WELL.nodes, "pg2": replace(WELL.of("pg2"), beats=True), "pg3": NodeFacts("pg3", reachable=False)}
    program.facts = ClusterFacts(facts)
    program.agent.step()
    assert {name: link.state for name, link in program.here.beats.links().items()} == {
        "pg2": LinkState.NEVER, "pg3": LinkState.UNKNOWN,
    }  # fmt: skip
    program.facts = WELL
    program.agent.step()
    assert {link.state for link in program.here.beats.links().values()} == {LinkState.UNSUPPORTED}


# Keys


@pytest.mark.parametrize(("same", "laid", "lays"), [(True, False, True), (True, True, False), (False, False, False)])
def test_the_roles_are_applied_again_once_most_nodes_have_the_new_key(
    same: bool, laid: bool, lays: bool, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(Roles, "rendered", classmethod(lambda cls: cls("key", "")))
    monkeypatch.setattr(ClusterFacts, "same_key", lambda *_: same)
    monkeypatch.setattr(Roles, "laid", lambda *_: laid)
    monkeypatch.setattr(Roles, "lay", lambda *_: done.append("laid"))
    program.agent._lay_roles(WELL)
    assert done == (["laid"] if lays else [])
    monkeypatch.setattr(agent, "writes", lambda *_: False)
    program.agent._lay_roles(WELL)
    assert len(done) == lays


@pytest.mark.parametrize(("same", "other", "restarts"), [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_pgpool_is_restarted_once_most_nodes_have_the_new_key(
    same: bool, other: bool, restarts: int, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(ClusterFacts, "same_key", lambda *_: same)
    monkeypatch.setattr(pools, "of_another_key", lambda _: other)
    monkeypatch.setattr(units, "control", lambda *words: asked.append(words))
    program.agent._rekey(WELL)
    assert asked == [("restart", paths.PGPOOL_UNIT)] * restarts
    asked.clear()
    program.here.record = program.here.record.with_changes(pause=Pause(1, True, 7.0, "root@pg1", ""))
    program.agent._rekey(WELL)
    assert asked == [], "nothing restarts in a pause"


# Answers


def test_requests_of_a_program_and_of_another_node_are_answered(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.here.note.publish("it waits")
    assert program.agent.answer(NoteRequest(), print, "pg2") == NoteAnswer("it waits")
    began: list[bool] = []
    monkeypatch.setattr(Vigil, "begin", lambda _: began.append(True))
    program.agent.answer(WatchRequest(), print, "pg2")
    assert began == [True]
    program.wants = (Start("pg1"),)
    assert program.agent.answer(ConvergeRequest(), print).said == ("start pg1",)


def test_an_error_of_postgresql_becomes_an_error_of_this_package(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(_: Vigil) -> None:
        raise psycopg2.OperationalError("the disk is full\n")

    monkeypatch.setattr(Vigil, "begin", begin)
    with pytest.raises(OperationError, match="PostgreSQL: the disk is full"):
        program.agent.answer(WatchRequest(), print)


# The program


@pytest.fixture
def running(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Yield a function that starts the agent's program in a thread, without signal handlers, until the test ends."""
    monkeypatch.setattr(paths, "AGENT", tmp_path / "agent")
    monkeypatch.setattr(files, "sweep", lambda _: None)
    monkeypatch.setattr(upgrade, "finish", lambda _: None)
    monkeypatch.setattr("pgpool_cluster.agent.agent.signal.signal", lambda *_: None)
    monkeypatch.setattr(pulse, "beat", lambda *_: None)
    monkeypatch.setattr(paths, "PARTNERS", tmp_path / "partners")
    thread = threading.Thread(target=program.agent.run)

    def begin() -> None:
        thread.start()
        deadline = time.monotonic() + 10
        while "READY=1" not in program.status and time.monotonic() < deadline:
            time.sleep(0.01)

    yield begin
    program.agent._end()
    thread.join(10)
    assert not thread.is_alive()
    assert not {"heartbeats", "local watch", "life signs", "fence"} & {one.name for one in threading.enumerate()}


def test_the_program_reports_to_systemd_and_answers(program: Program, running: Callable[[], None]) -> None:
    program.here.note.publish("")
    running()
    assert program.status[0] == "READY=1"
    assert {"heartbeats", "local watch", "life signs", "fence"} <= {thread.name for thread in threading.enumerate()}
    assert ask(ConvergeRequest(), seconds=20).said == ()
    assert program.here.answer == program.agent.answer


def test_processes_of_pgpool_that_a_killed_agent_left_stopped_continue_at_the_start(
    program: Program, running: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_children, "release", lambda: [4711, 4712])
    running()
    assert any("2 processes of pgpool-II were stopped, and continue" in line for line in program.logged)


def test_a_queue_of_clients_ends_with_the_agent(
    program: Program, running: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(ClientQueue, "abandon", lambda _: done.append("abandon"))
    monkeypatch.setattr(ClientQueue, "end", lambda _: done.append("end"))
    running()
    program.agent._end()
    assert eventually(lambda: done == ["abandon", "end"])


def test_cluster_yml_is_read_again_on_a_signal(
    program: Program, running: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Here(CLUSTER, CLUSTER.named("pg1"), None, Peers({}), Record(), "another hash")
    loads: list[Here | ClusterError] = [UsageError("cluster.yml:3: a tab", hint="take it out"), fresh]

    def load() -> Here:
        found = loads.pop(0)
        if isinstance(found, ClusterError):
            raise found
        return found

    monkeypatch.setattr(agent, "load", load)
    running()
    program.agent._renew()
    assert eventually(lambda: any("keeping the previous cluster.yml" in line for line in program.logged))
    assert program.here.loaded == ""
    program.agent._renew()
    assert eventually(lambda: "cluster.yml was reloaded" in program.logged)
    assert program.here.loaded == "another hash"


def test_events_of_an_earlier_run_of_the_agent_are_kept(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "HISTORY", tmp_path / "history.jsonl")
    here = agent.with_history(program.here)
    recording.note(here, EventKind.HOLD, "keep clients off pg1")
    here.history.close()
    assert [one.what for one in agent.with_history(program.here).history.recent(9)[0]] == ["keep clients off pg1"]


def this_node(cluster: Cluster, me: Node) -> Callable[[], tuple[Cluster, Node]]:
    return lambda: (cluster, me)


def test_a_node_without_configuration_explains_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[bool] = []
    monkeypatch.setattr(paths, "file_hash", lambda: "hash")
    monkeypatch.setattr(paths, "FINGERPRINT", tmp_path / "fingerprint")
    monkeypatch.setattr(server, "this_node", this_node(CLUSTER, CLUSTER.named("pg1")))
    monkeypatch.setattr(before, "explain", lambda: explained.append(True))
    with pytest.raises(ServerError, match="has not been applied yet"):
        agent.load()
    assert explained == [True]


def test_a_node_is_loaded_with_its_server_its_record_and_its_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fingerprint").touch()
    instance: Any = SimpleNamespace(unit="postgresql@17-main.service", port=5432)
    monkeypatch.setattr(paths, "file_hash", lambda: "hash")
    monkeypatch.setattr(paths, "FINGERPRINT", tmp_path / "fingerprint")
    monkeypatch.setattr(paths, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(server, "this_node", this_node(CLUSTER, CLUSTER.named("pg2")))
    monkeypatch.setattr(server, "instances", lambda _: [instance])
    monkeypatch.setattr(server, "choose_instance", lambda *_: instance)
    found = agent.load()
    assert (found.me.name, found.loaded, found.record) == ("pg2", "hash", Record())
    assert set(found.peers.peers) == {"pg1", "pg3"}
    assert found.server.instance is instance
