"""debconf's answers are turned into cluster.yml."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from pgpool_cluster.configuration import seed
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import generate
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import UsageError

ANSWERS = "nodes=pg1=fd00::1 pg2=fd00::2, pg3=fd00::3\nclients=10.0.0.0/24 fd00::/64\nvirtual-ip=10.0.0.50/24\n"


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "CLUSTER_YML", tmp_path / "cluster.yml")
    monkeypatch.setattr(paths, "CLUSTER_KEY", tmp_path / "cluster.key")
    monkeypatch.setattr("pgpool_cluster.machine.server.host_name", lambda: "pg1")
    return tmp_path


def sown(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    seed.run([])


def test_answers_give_a_cluster(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate()
    sown(f"{ANSWERS}synchronous=2\nmode=streaming_replication\nkey={key}\n", monkeypatch)
    cluster = parse((etc / "cluster.yml").read_text(), "cluster.yml", "pg1")
    assert [(node.name, node.address) for node in cluster.nodes] == [
        ("pg1", "fd00::1"), ("pg2", "fd00::2"), ("pg3", "fd00::3"),
    ]  # fmt: skip
    assert cluster.synchronous == 2
    assert [str(network) for network in cluster.clients] == ["10.0.0.0/24", "fd00::/64"]
    assert (etc / "cluster.key").read_text() == f"{key}\n"
    assert (etc / "cluster.key").stat().st_mode & 0o777 == 0o600


def test_existing_files_take_precedence(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (etc / "cluster.yml").write_text("name: mine\n")
    (etc / "cluster.key").write_text("of my own, long enough\n")
    sown(f"{ANSWERS}key={generate()}\n", monkeypatch)
    assert (etc / "cluster.yml").read_text() == "name: mine\n"
    assert (etc / "cluster.key").read_text() == "of my own, long enough\n"


def test_without_answers_it_is_a_cluster_of_one_with_a_key_of_its_own(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sown("", monkeypatch)
    assert len(parse((etc / "cluster.yml").read_text(), "cluster.yml", "pg1").nodes) == 1
    first = (etc / "cluster.key").read_text()
    sown("", monkeypatch)
    assert (etc / "cluster.key").read_text() == first


def test_several_nodes_never_generate_different_keys(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sown(ANSWERS, monkeypatch)
    assert (etc / "cluster.yml").exists()
    assert not (etc / "cluster.key").exists()


@pytest.mark.parametrize(
    "answers",
    ["nodes=pg1\n", "nodes=pg1=\n", "nodes=pg1=$(id)\n", "nodes=pg1=10.0.0.1 pg2=10.0.0.1\n", "nodes=P G=1\n",
     "clients=everybody\n", "mode=magic\n", "synchronous=9\n", "virtual-ip=10.0.0.9\n", "key=short\n"],
)  # fmt: skip
def test_wrong_answers_leave_no_file(etc: Path, monkeypatch: pytest.MonkeyPatch, answers: str) -> None:
    with pytest.raises(UsageError):
        sown(answers, monkeypatch)
    assert not list(etc.iterdir())


DEBIAN = Path(__file__).parents[4] / "debian-templates" / "pgpool2-cluster"


@pytest.mark.parametrize(("status", "applied"), [(0, True), (2, False)])
def test_debconf_forgets_the_key_even_if_the_answers_are_wrong(tmp_path: Path, status: int, applied: bool) -> None:
    """It used to stay in passwords.dat until the next dpkg-reconfigure."""
    program = tmp_path / "pgpoolctl"
    program.write_text(f'#!/bin/sh\necho "ran $1"\n[ "$1" != seed ] || exit {status}\n')
    program.chmod(0o755)
    debconf = 'db_get() { RET=x; }\ndb_reset() { echo "forgets $1"; }\ndb_stop() { :; }\n'
    script = (DEBIAN / "pgpool2-cluster.postinst").read_text()
    script = script.replace(". /usr/share/debconf/confmodule\n", debconf)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    answer = subprocess.run(["sh", "-s", "configure"], input=script, capture_output=True, text=True, check=True,
                            env=environment)  # fmt: skip
    assert answer.stdout.splitlines() == [
        "ran seed", "forgets pgpool2-cluster/key", *(["ran apply"] if applied else []),
    ]  # fmt: skip


def test_the_control_socket_is_for_the_postgres_user_and_not_for_its_group() -> None:
    lines = (DEBIAN / "pgpool2-cluster.pgpool2-cluster-control.socket").read_text().splitlines()
    assert {"SocketUser=postgres", "SocketGroup=root", "SocketMode=0600"} <= set(lines)
