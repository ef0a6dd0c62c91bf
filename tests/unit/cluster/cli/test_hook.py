"""Programs that ssh, pgpool-II, PostgreSQL and systemd call, also while the agent does not answer."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.agents import Said, agent_in

import pgpool_cluster.machine
from pgpool_cluster.cli import hook
from pgpool_cluster.configuration import before_pgpool
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError, ServerError, UsageError
from pgpool_cluster.machine import server, units
from pgpool_cluster.machine.network import neighbours
from pgpool_cluster.machine.record import Record
from pgpool_cluster.operations import upgrade
from pgpool_cluster.transport.protocol import (
    FailoverAnswer,
    FailoverRequest,
    FirstStageRequest,
    MayStartAnswer,
    MayStartRequest,
    SecondStageRequest,
    StartRequest,
)

SEGMENT = "000000010000000000000001"


def _silent(*_: Any, **__: Any) -> Any:
    raise ServerError("the agent does not answer", hint="systemctl start pgpool2-cluster")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/postgresql of a member whose agent does not answer. 17/main is in the cluster; 15/other is not."""
    for name in ("RECORD", "CLUSTER_YML"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
        (tmp_path / name.lower()).write_text("{}")
    for name in ("17/main", "15/other"):
        (tmp_path / name / "conf.d").mkdir(parents=True)
    (tmp_path / "17/main/conf.d/pgpool2-cluster.conf").touch()
    monkeypatch.setattr(paths, "POSTGRESQL_CONFIGURATION", tmp_path)
    monkeypatch.setattr(hook, "ask", _silent)
    return tmp_path


@pytest.mark.usefixtures("etc")
@pytest.mark.parametrize(("server", "status"), [("17-main", 1), ("15-other", 0), ("16-new", 0)])
def test_during_a_dist_upgrade_only_the_clusters_server_stays_down(
    server: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without python3-yaml, no server of the host used to start."""
    monkeypatch.delattr(pgpool_cluster.machine, "server", raising=False)
    monkeypatch.setitem(sys.modules, "pgpool_cluster.machine.server", None)  # as if one of its imports were missing
    assert hook.run(["may-start", server]) == status


@pytest.mark.usefixtures("etc")
def test_an_internal_error_prevents_only_the_start_of_the_clusters_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("half of the modules are of another version")

    monkeypatch.setattr(hook, "ask", broken)
    monkeypatch.setattr(hook, "_is_ours", broken)
    assert hook.run(["may-start", "15-other"]) == 0
    assert hook.run(["may-start", "17-main"]) == 1


@pytest.mark.parametrize(
    ("words", "asked", "done"),
    [(["pg2"], "agent", ["pg2"]), (["w", "witness"], "agent", ["w"]), (["pg2"], f"wal {SEGMENT}", [SEGMENT]),
     (["w", "witness"], f"wal {SEGMENT}", []), (["w", "other"], "agent", []), (["$(id)"], "agent", []),
     (["pg2"], "id", []), ([], "agent", [])],
)  # fmt: skip
def test_a_peers_key_permits_few_commands_and_a_witness_reads_no_wal(
    words: list[str], asked: str, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAL contains all data of the databases."""
    ran: list[str] = []
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", asked)
    monkeypatch.setattr(hook, "bridge", ran.append)

    def send(name: str, *_: object) -> bool:
        ran.append(name)
        return True

    monkeypatch.setattr("pgpool_cluster.machine.wal.wal_files.send", send)
    if done:
        assert hook.run(["ssh-command", *words]) == 0
    else:
        with pytest.raises(UsageError, match="for pgpool2-cluster only"):
            hook.run(["ssh-command", *words])
    assert ran == done


def test_an_endless_request_is_cut_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Endless:
        def readline(self, size: int = -1) -> str:
            assert 0 < size < 10_000
            return "x" * size

    monkeypatch.setattr(sys, "stdin", Endless())
    assert hook.run(["control"]) == 0
    assert capsys.readouterr().out.startswith("refused")


# With an agent that answers


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    with agent_in(tmp_path, monkeypatch) as found:
        yield found


STAGE = ["/var/lib/postgresql/17/main", "10.0.0.2", "/var/lib/postgresql/17/main", "5432", "1", "5432", "10.0.0.1"]


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["recovery-1st-stage", *STAGE], FirstStageRequest(1)),
        (["recovery-2nd-stage", *STAGE], SecondStageRequest(1)),
        (["pgpool-remote-start", "10.0.0.2", "/data"], StartRequest("10.0.0.2")),
        (["failover", "0", "1", "1", "0"], FailoverRequest(0)),
    ],
)
def test_a_hook_sends_one_request(
    words: list[str], request_: object, said: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    said.progress = ("copying",)
    said.answers[FailoverRequest] = FailoverAnswer(("promote pg2 term 2", "follow pg3 primary pg2"))
    assert hook.run(words) == 0
    assert said.asked == [request_]
    out = capsys.readouterr().out
    if words[0] == "failover":
        assert out == "copying\nfailover: promote pg2 term 2\nfailover: follow pg3 primary pg2\n"
    else:
        assert out == ("" if words[0] == "pgpool-remote-start" else "copying\n")


@pytest.mark.parametrize(
    "words",
    [
        [], ["nonsense"], ["failover"], ["failover", "x"], ["failover", "-1"], ["recovery-1st-stage"],
        ["recovery-1st-stage", *STAGE[:4]], ["recovery-2nd-stage", *STAGE[:4], "x"], ["pgpool-remote-start"],
        ["announce-address", "10.0.0.9", "eth0"], ["announce-address", "nonsense", "eth0"], ["announce-address"],
    ],
)  # fmt: skip
def test_a_hook_with_other_arguments_sends_no_request(words: list[str], said: Said) -> None:
    with pytest.raises(UsageError) as refused:
        hook.run(words)
    assert refused.value.hint
    assert said.asked == []


def test_a_refusal_of_the_agent_is_the_hooks_error(said: Said) -> None:
    said.answers[FirstStageRequest] = OperationError("pg2 needs no recovery", hint="--force")
    with pytest.raises(OperationError, match="pg2 needs no recovery"):
        hook.run(["recovery-1st-stage", *STAGE])


@pytest.fixture
def member(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """A node that is a member of a cluster."""
    for name in ("RECORD", "CLUSTER_YML"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
        (tmp_path / name.lower()).write_text("{}")
    return said


@pytest.mark.parametrize(
    ("answer", "status", "out"),
    [
        (MayStartAnswer(go=True), 0, ""),
        (MayStartAnswer(go=False, why="waits: pg2 leads"), 1, "PostgreSQL is not started: waits: pg2 leads\n"),
    ],
)
def test_a_server_starts_if_the_agent_allows_it(
    answer: MayStartAnswer, status: int, out: str, member: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    member.answers[MayStartRequest] = answer
    assert hook.run(["may-start", "17-main"]) == status
    assert capsys.readouterr().out == out
    assert member.asked == [MayStartRequest("17-main")]


@pytest.mark.parametrize("missing", ["record", "cluster_yml"])
def test_on_a_node_outside_a_cluster_every_server_starts_without_a_request(
    missing: str, member: Said, tmp_path: Path
) -> None:
    (tmp_path / missing).unlink()
    assert hook.run(["may-start", "17-main"]) == 0
    assert member.asked == []


@pytest.mark.usefixtures("etc")
@pytest.mark.parametrize(("server_", "status"), [("17-main", 1), ("15-other", 0), ("18-main", 0)])
def test_if_the_agent_is_silent_only_the_clusters_own_server_waits_for_it(
    server_: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that pg_upgradecluster is about to put in its place does not wait."""
    instance = SimpleNamespace(unit="postgresql@17-main.service")
    monkeypatch.setattr(Record, "load", lambda _: Record(system=1, upgrading="18/main"))
    monkeypatch.setattr(server, "this_node", lambda: (None, SimpleNamespace(port=5432)))
    monkeypatch.setattr(server, "instances", lambda _: [])
    monkeypatch.setattr(server, "choose_instance", lambda *_: instance)
    assert hook.run(["may-start", server_]) == status
    assert ("not started yet" in capsys.readouterr().out) is bool(status)


@pytest.mark.parametrize(
    ("words", "begun"),
    [
        (["17", "main", "18", "init"], [(PostgresqlCluster(17, "main"), PostgresqlCluster(18, "main"))]),
        (["17", "main", "18", "finish"], []),
        (["x", "main", "18", "init"], []),
        ([], []),
    ],
)
def test_an_upgrade_of_postgresql_is_recorded_only_at_its_beginning(
    words: list[str], begun: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[object] = []
    monkeypatch.setattr(upgrade, "begin", lambda *clusters: noted.append(clusters))
    assert hook.run(["upgrade", *words]) == 0
    assert noted == begun


def test_the_hooks_of_systemd_and_of_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(before_pgpool, "run", lambda: done.append("before pgpool"))
    monkeypatch.setattr(neighbours, "announce", lambda address, interface: done.append((str(address), interface)))
    monkeypatch.setattr(units, "serve_control", lambda request: f"done {request}")
    monkeypatch.setattr(sys, "stdin", io.StringIO("apply\nmore\n"))
    assert [hook.run(["before-pgpool"]), hook.run(["announce-address", "2001:db8::9", "eth0"])] == [0, 0]
    assert done == ["before pgpool", ("2001:db8::9", "eth0")]
    assert hook.run(["control"]) == 0
