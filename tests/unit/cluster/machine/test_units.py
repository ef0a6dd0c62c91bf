"""Requests of the postgres user to root: only connections with a node's services are killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths
from pgpool_cluster.machine import server, units
from pgpool_cluster.machine.memory import Applied

NODES = "nodes: {pg1: 10.0.0.1, pg2: {address: 10.0.0.2, port: 5433}, pg3: 10.0.0.3}\npgpool: {port: 6432}\n"
SIX = "nodes: {pg1: fd00::1, pg2: fd00::2, pg3: fd00::3}\n"


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that root ran."""
    ran: list[list[str]] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(paths, "CLUSTER_YML", tmp_path / "cluster.yml")
    monkeypatch.setattr(paths, "HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(server, "host_name", lambda: "pg2")
    monkeypatch.setattr(subprocess, "run", run)
    paths.CLUSTER_YML.write_text(NODES)
    return ran


@pytest.mark.parametrize(
    "request_",
    ["hang-up any", "hang-up all", "hang-up default", "hang-up localhost", "hang-up *", "hang-up pg1 5432",
     "hang-up 10.0.0.1", "hang-up 10.0.0.9 5432", "hang-up 10.0.0.2 5432", "hang-up 10.0.0.1 22",
     "hang-up 10.0.0.1 5432 22", "hang-up 10.0.0.1 0", "hang-up 10.0.0.0/8 5432", "hang-up fade 5432",
     "hang-up 10.0.0.1 5432 or dst any", "hang-up 0.0.0.0 5432", "hang-up :: 5432"],
)  # fmt: skip
def test_other_addresses_and_ports_are_refused(request_: str, done: list[list[str]]) -> None:
    assert units.serve_control(request_).startswith("refused: ")
    assert done == []


def test_an_unresolved_name_is_not_an_address(done: list[list[str]]) -> None:
    paths.CLUSTER_YML.write_text("nodes: {pg1: fade.cafe, pg2: 10.0.0.2}\n")
    assert units.serve_control("hang-up fade.cafe 5432") == "refused: no other node has the address fade.cafe"
    paths.HOSTS.write_text("10.0.0.1 fade.cafe\n")
    assert units.serve_control("hang-up 10.0.0.1 5432") == "done"
    assert len(done) == 1


def test_an_unreadable_cluster_yml_kills_no_connection(done: list[list[str]]) -> None:
    paths.CLUSTER_YML.write_text("nodes:\n\tpg1: 10.0.0.1\n")
    assert units.serve_control("hang-up 10.0.0.1 5432").startswith("refused: ")
    assert done == []


def test_connections_to_the_clusters_ports_are_killed_in_both_directions(
    done: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = parse(NODES, "cluster.yml", "pg2")
    monkeypatch.setattr(units, "control", lambda verb, unit: units.serve_control(f"{verb} {unit}"))
    units.hang_up(cluster, cluster.named("pg1"))
    ((program, *options, expression),) = done
    assert (program, options) == ("ss", ["--kill", "--tcp"])
    for port in (5432, 5433, 6432, 9000, 9898):
        assert f"dport = :{port} or sport = :{port}" in expression
    assert expression.startswith("dst 10.0.0.1 and ( ")
    assert ":22 " not in expression


@pytest.mark.parametrize("text", [NODES, SIX])
def test_ss_accepts_the_filter(text: str) -> None:
    cluster = parse(text, "cluster.yml", "pg2")
    words = units._command(f"hang-up {cluster.nodes[0].address} {' '.join(map(str, cluster.ports))}")
    asked = subprocess.run([word for word in words if word != "--kill"], capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stderr) == (0, "")


def test_only_the_clusters_own_server_is_started(
    done: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "MEMORY", tmp_path / "applied.json")
    monkeypatch.setattr(paths, "OLD_MEMORY", tmp_path / "old.json")
    assert units.serve_control("restart postgresql@17-main.service").startswith("refused: ")
    Applied({"/etc/postgresql/17/main/pg_hba.conf": ""}).save()
    assert units.serve_control("stop postgresql@17-payroll.service").startswith("refused: ")
    assert "stop postgresql@17-payroll.service" in capsys.readouterr().err
    assert units.serve_control("restart postgresql@17-main.service") == "done"
    assert units.serve_control("stop ssh.service").startswith("refused: ")
    assert done == [["systemctl", "restart", "postgresql@17-main.service"]]


def test_a_failed_request_returns_all_output_and_the_error_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The postgres user shows the last line, or the last two if there is a hint (units.control)."""
    script = "echo pgpoolctl: it is broken >&2; echo hint: mend it >&2; echo a file is written; exit 1"
    monkeypatch.setattr(units, "_command", lambda _: ["sh", "-c", script])
    assert units.serve_control("apply") == "a file is written\npgpoolctl: it is broken\nhint: mend it"
    assert "apply failed" in capsys.readouterr().err
