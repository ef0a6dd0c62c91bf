"""The commands of pgpoolctl: the requests that they send to the agent, their output, and their exit status."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.cluster.agents import Said, agent_in

from pgpool_cluster.agent import agent as agents
from pgpool_cluster.agent.checks import check_own_files, checks
from pgpool_cluster.cli import command_line, verbs
from pgpool_cluster.configuration import apply, changes, key_file, pool_key
from pgpool_cluster.decision.facts.pause import Pause
from pgpool_cluster.decision.reports.chronology import ClusterHistory
from pgpool_cluster.decision.reports.events import Event
from pgpool_cluster.decision.reports.report import NodeReport, PgpoolReport, Report
from pgpool_cluster.decision.restart_plan import RestartKind, RestartStep
from pgpool_cluster.definition import key
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.errors import ClusterError, ExitStatus, OperationError, ServerError, UsageError
from pgpool_cluster.machine import due_address, server
from pgpool_cluster.transport.protocol import (
    AttachRequest,
    CheckAnswer,
    CheckRequest,
    ClusterHistoryRequest,
    ConvergeAnswer,
    ConvergeRequest,
    DetachRequest,
    PauseAnswer,
    PauseRequest,
    RecoverRequest,
    RestartPlanAnswer,
    RestartPlanRequest,
    RestartRequest,
    StatusRequest,
    SwitchoverAnswer,
    SwitchoverRequest,
    UserList,
    UserRequest,
    UsersRequest,
    WaitingAnswer,
    WaitingRequest,
)

NODE = NodeReport("pg1", "10.0.0.1", 0, "primary", "up", "up", 0, 1, False, "", "")
WELL = Report("main", "streaming_replication", True, (NODE,), (PgpoolReport("pg1", "leader", False),), {})
ILL = Report("main", "streaming_replication", False, (NODE,), (), {"pg2": "it waits for pg1"})
SECRET = SimpleNamespace(scram_verifier=lambda name, password: f"{name}:{password}")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    with agent_in(tmp_path, monkeypatch) as found:
        found.answers = {StatusRequest: WELL, UsersRequest: UserList(3, {"app": "e", "a": "e"}, "m")}
        yield found


def typed(*words: str) -> ExitStatus:
    """Run a command; errors are raised."""
    return verbs.run(command_line.parser().parse_args(words))


# Reading


def test_status_reports_whether_the_cluster_is_healthy(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("status") is ExitStatus.GOOD
    assert "cluster main, streaming_replication: healthy" in capsys.readouterr().out
    said.answers[StatusRequest] = ILL
    assert typed("status", "--json") is ExitStatus.FAILED
    found = json.loads(capsys.readouterr().out)
    assert (found["healthy"], found["notes"]) == (False, {"pg2": "it waits for pg1"})
    assert found["nodes"][0]["name"] == "pg1"


@pytest.mark.parametrize("broken", ["cluster.yml", "cluster.key", "nothing"])
def test_if_no_agent_runs_a_fault_in_its_files_is_reported_first(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise UsageError(f"{broken} is broken", hint="mend it")

    monkeypatch.setattr(paths, "AGENT", tmp_path / "agent")
    monkeypatch.setattr(agents, "load", fails if broken == "cluster.yml" else lambda: None)
    monkeypatch.setattr(key_file, "read", fails if broken == "cluster.key" else lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    expected = "is not running on this node" if broken == "nothing" else f"{broken} is broken"
    with pytest.raises(ClusterError, match=expected):
        typed("status")


def test_wait_ends_once_the_cluster_is_healthy(said: Said) -> None:
    reports = iter([ILL, WELL])
    said.answers[StatusRequest] = lambda _: next(reports)
    assert typed("wait", "--timeout", "60") is ExitStatus.GOOD
    assert len(said.asked) == 2


def test_wait_times_out_with_the_notes_of_the_nodes(said: Said) -> None:
    said.answers[StatusRequest] = ILL
    with pytest.raises(OperationError, match=r"not healthy after 0 s: pg2: it waits for pg1"):
        typed("wait", "--timeout", "0")
    said.answers[StatusRequest] = OperationError("it cannot collect its own facts", hint="dmesg")
    with pytest.raises(OperationError, match=r"not healthy after 0 s: it cannot collect its own facts"):
        typed("wait", "--timeout", "0")
    with pytest.raises(UsageError, match="below 0"):
        typed("wait", "--timeout", "-1")


def test_check_shows_the_files_and_every_node(
    said: Said, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_own_files, "of_files", lambda: iter([Check("pg1", "a file", True)]))
    said.answers[CheckRequest] = CheckAnswer((Check("pg2", "it has room", False, "full\x1b[2J", "free some"),))
    assert typed("check") is ExitStatus.FAILED
    out = capsys.readouterr().out
    assert out == "ok    pg1: a file\nFAIL  pg2: it has room: full?[2J; fix: free some\n"
    assert said.asked == [CheckRequest(all=True)]
    said.answers[CheckRequest] = CheckAnswer((Check("pg2", "it has room", True),))
    assert typed("check", "--json") is ExitStatus.GOOD
    assert json.loads(capsys.readouterr().out)["checks"][1] == {"node": "pg2", "check": "it has room", "ok": True}


def test_an_agent_that_does_not_answer_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "AGENT", tmp_path / "agent")
    monkeypatch.setattr(check_own_files, "of_files", lambda: iter(()))
    monkeypatch.setattr(server, "host_name", lambda: "pg1")
    (found,) = checks.of_cluster()
    assert (found.node, found.ok, found.fix) == ("pg1", False, f"systemctl start {paths.UNIT}")


# Acting


@pytest.mark.parametrize(
    ("words", "request_", "out"),
    [
        (("recover", "pg2"), RecoverRequest("pg2"), "half\npg2 is recovered\n"),
        (("recover", "--force", "pg2"), RecoverRequest("pg2", force=True), "half\npg2 is recovered\n"),
        (("switchover",), SwitchoverRequest(), "half\npg9 is the primary\n"),
        (("switchover", "pg2"), SwitchoverRequest("pg2"), "half\npg9 is the primary\n"),
        (("switchover", "--drain", "20"), SwitchoverRequest(drain=20.0), "half\npg9 is the primary\n"),
        (("switchover", "--accept-loss", "pg2"), SwitchoverRequest("pg2", accept_loss=True),
         "half\npg9 is the primary\n"),
        (("attach", "pg2"), AttachRequest("pg2"), ""),
        (("detach", "pg2"), DetachRequest("pg2"), ""),
        (("converge", "--once"), ConvergeRequest(), "half\nattach pg2\nwaits: pg3\n"),
    ],
)  # fmt: skip
def test_a_verb_sends_one_request_and_prints_its_result(
    words: tuple[str, ...], request_: object, out: str, said: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    said.progress = ("half",)
    said.answers[SwitchoverRequest] = SwitchoverAnswer("pg9")
    said.answers[ConvergeRequest] = ConvergeAnswer(("attach pg2", "waits: pg3"))
    assert typed(*words) is ExitStatus.GOOD
    assert said.asked == [request_]
    assert capsys.readouterr().out == out


def test_restart_requests_a_plan_and_then_its_steps(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (RestartStep(RestartKind.PRIMARY, "pg1"), RestartStep(RestartKind.STANDBY, "pg2"))
    said.answers[RestartPlanRequest] = RestartPlanAnswer(steps)
    said.progress = ("half",)
    assert typed("restart", "--pending", "--back", "pg1", "pg2") is ExitStatus.GOOD
    plan = RestartPlanRequest(("pg1", "pg2"), pending=True, back=True)
    assert said.asked == [plan, *(RestartRequest(step) for step in steps)]
    assert capsys.readouterr().out.splitlines() == [
        "half", "[1/2] pg1: restart of the primary in place", "half", "[2/2] pg2: restart of a standby", "half",
        "PostgreSQL was restarted on pg1, pg2",
    ]  # fmt: skip
    said.answers[RestartPlanRequest] = RestartPlanAnswer(())
    assert typed("restart") is ExitStatus.GOOD
    assert "no parameter requires a restart" in capsys.readouterr().out


def test_a_restart_that_an_agent_does_not_complete_keeps_its_exit_status(said: Said) -> None:
    said.answers[RestartPlanRequest] = RestartPlanAnswer((RestartStep(RestartKind.STANDBY, "pg2"),))

    def fail(_: object) -> None:
        raise ServerError("pg2 is unreachable", hint="ssh pg2")

    said.answers[RestartRequest] = fail
    with pytest.raises(ClusterError, match="pg2 is unreachable; restarted: none; not restarted: pg2") as failure:
        typed("restart")
    assert failure.value.hint == "ssh pg2; then pgpoolctl restart pg2"
    assert failure.value.exit_status is ExitStatus.ENVIRONMENT


def test_a_round_without_actions_is_reported_as_such(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    said.answers[ConvergeRequest] = ConvergeAnswer(())
    typed("converge", "--once")
    assert capsys.readouterr().out == "nothing to do on this node\n"


def test_a_refusal_of_the_agent_ends_the_command(said: Said) -> None:
    said.answers[RecoverRequest] = OperationError("pg2 needs no recovery", hint="pgpoolctl status")
    with pytest.raises(OperationError, match="pg2 needs no recovery"):
        typed("recover", "pg2")


def test_accept_loss_requires_the_name_of_a_node(said: Said) -> None:
    with pytest.raises(UsageError, match="--accept-loss needs the node"):
        typed("switchover", "--accept-loss")
    assert said.asked == []


def test_bytes_are_counted_on_one_line_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = verbs._ProgressLine()
    for text in ("copying", "1 of 9 MB (11%)", "2 of 9 MB (22%)", "starting"):
        shown(text)
    shown.end()
    assert capsys.readouterr().out == "copying\n\r\x1b[K1 of 9 MB (11%)\r\x1b[K2 of 9 MB (22%)\nstarting\n"


def test_apply_shows_a_pending_restart(
    said: Said, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = SimpleNamespace(changes=["changed a"], refused=[])
    monkeypatch.setattr(changes, "plan", lambda: planned)
    monkeypatch.setattr(apply, "carry_out", lambda _: [])
    said.answers[WaitingRequest] = WaitingAnswer("PostgreSQL is to be restarted")
    assert typed("apply") is ExitStatus.GOOD
    assert capsys.readouterr().out == "changed a\nPostgreSQL is to be restarted\n"
    said.answers[WaitingRequest] = OperationError("no PostgreSQL", hint="")
    assert typed("apply") is ExitStatus.GOOD
    monkeypatch.setattr(apply, "carry_out", lambda _: [OperationError("a file is edited", hint="mv it")])
    with pytest.raises(OperationError, match="a file is edited"):
        typed("apply")


def test_apply_removes_a_former_virtual_address_even_if_this_machine_is_no_node_any_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OperationError("ip: no answer", hint="ip address")

    def no_node() -> None:
        raise OperationError("no node is called pg9", hint="hostnamectl")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(changes, "plan", no_node)
    removed: list[bool] = []
    monkeypatch.setattr(due_address, "follow_cluster_yml", lambda: removed.append(True))
    with pytest.raises(OperationError, match="no node is called pg9"):
        typed("apply")
    assert removed == [True]
    with pytest.raises(OperationError):
        typed("apply", "--diff")
    assert removed == [True]
    monkeypatch.setattr(due_address, "follow_cluster_yml", fail)
    with pytest.raises(OperationError, match="no node is called pg9"):
        typed("apply")
    assert "was not removed: ip: no answer; hint: ip address" in "".join(capsys.readouterr())


def test_a_unit_that_cannot_start_reports_the_reason_to_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    notified: list[str] = []

    def load() -> None:
        raise ServerError("no cluster.yml", hint="write it")

    monkeypatch.setattr(agents, "load", load)
    monkeypatch.setattr(verbs, "notify", notified.append)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ServerError, match=r"no cluster\.yml"):
        typed("converge")
    assert notified == ["READY=1\nSTATUS=no cluster.yml; hint: write it"]


def test_a_key_is_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("key", "generate") is ExitStatus.GOOD
    assert capsys.readouterr().out.strip()


# Users


def test_users_are_listed_by_name(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("user", "list") is ExitStatus.GOOD
    assert capsys.readouterr().out == "a\napp\n"
    assert said.asked == [UsersRequest()]


def test_this_node_derives_all_entries_of_a_user_from_the_password(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file, "read", lambda: SECRET)
    monkeypatch.setattr(pool_key, "needed", lambda _: "pool key")
    monkeypatch.setattr(key, "pool_passwd_entry", lambda password, pool_key: f"{password} by {pool_key}")
    monkeypatch.setattr(key, "mark", lambda pool_key: f"mark of {pool_key}")
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert typed("user", "set", "--password-stdin", "app") is ExitStatus.GOOD
    assert said.asked == [UserRequest("app", "app:secret", "secret by pool key", "mark of pool key")]


def test_only_an_existing_user_can_be_removed(said: Said) -> None:
    assert typed("user", "remove", "app") is ExitStatus.GOOD
    assert said.asked == [UsersRequest(), UserRequest("app")]
    with pytest.raises(UsageError, match="absent is not a user of pgpool-II"):
        typed("user", "remove", "absent")


@pytest.mark.parametrize(
    ("password", "why"),
    [("", "is empty"), ("pässword", "beyond ASCII"), ("a\tb", "control character"), ("x" * 500, "reads passwords of")],
)
def test_a_password_that_could_never_log_in_is_refused(
    password: str, why: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "read", lambda: SECRET)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
    with pytest.raises(UsageError, match=why):
        typed("user", "set", "--password-stdin", "app")
    assert said.asked == []


def test_a_password_is_asked_for_on_a_terminal_only_and_twice(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file, "read", lambda: SECRET)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UsageError, match="no terminal"):
        typed("user", "set", "app")
    answers = iter(["one", "two"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    with pytest.raises(UsageError, match="the two passwords differ"):
        typed("user", "set", "app")
    assert said.asked == []


@pytest.mark.parametrize("name", ["pg_app", "public", "a b", "x" * 64, '"'])
def test_a_name_that_postgresql_reserves_or_quotes_is_refused(name: str, said: Said) -> None:
    with pytest.raises(UsageError):
        typed("user", "set", "--password-stdin", name)
    assert said.asked == []


# History and pause


EVENT = Event(1000.0, "pg2", "promote", "promote pg2 term 2", "pg1 is unreachable", "no primary", 2, 0.84)


def test_history_shows_events_and_unreachable_nodes(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    said.answers[ClusterHistoryRequest] = ClusterHistory((EVENT,), {"w": "w is unreachable\x1b[2J"})
    assert typed("history") is ExitStatus.GOOD
    out = capsys.readouterr().out
    assert "promote: promote pg2 term 2 (0.8 s)" in out
    assert "w: its events are missing: w is unreachable?[2J" in out
    assert typed("history", "--json", "-n", "3") is ExitStatus.GOOD
    assert json.loads(capsys.readouterr().out)["events"][0]["message_id"] == EVENT.message_id
    typed("history", "--since", "1970-01-02 00:00+00:00")
    typed("history", "--since", "1970-01-02 00:00+00:00", "-n", "7")
    assert said.asked == [
        ClusterHistoryRequest(50), ClusterHistoryRequest(3), ClusterHistoryRequest(1000, 86400.0),
        ClusterHistoryRequest(7, 86400.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [(("-n", "0"), "-n must be"), (("-n", "1001"), "-n must be"), (("--since", "noon"), "not a time")],
)
def test_a_bad_option_of_history_is_refused(words: tuple[str, ...], reason: str, said: Said) -> None:
    with pytest.raises(UsageError, match=reason):
        typed("history", *words)
    assert said.asked == []


def test_pause_and_resume_report_the_state_and_the_nodes_that_learn_it_later(
    said: Said, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "host_name", lambda: "pg1")
    monkeypatch.setenv("SUDO_USER", "ada")
    said.answers[PauseRequest] = PauseAnswer(Pause(1, True, 7.0, "root@pg1", ""), changed=True, missing=("pg3",))
    assert typed("pause", "--reason", "new\nswitches ") is ExitStatus.GOOD
    assert capsys.readouterr().out.splitlines() == [
        "the cluster is paused", "pg3 has not recorded it; it will, once it sees a database node that has",
    ]  # fmt: skip
    said.answers[PauseRequest] = PauseAnswer(Pause(2, False, 8.0, "root@pg1", ""), changed=False)
    assert typed("resume") is ExitStatus.GOOD
    assert capsys.readouterr().out == "the cluster is not paused\n"
    assert said.asked == [PauseRequest(True, "ada@pg1", "new switches"), PauseRequest(False, "ada@pg1")]
