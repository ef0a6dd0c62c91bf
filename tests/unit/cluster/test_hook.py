"""Which servers may start where the agent does not answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import pgpool_cluster
from pgpool_cluster import hook, paths
from pgpool_cluster.errors import ServerError, UsageError

SEGMENT = "000000010000000000000001"


def _silent(*_: Any, **__: Any) -> Any:
    raise ServerError("the agent does not answer", hint="systemctl start pgpool2-cluster")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/postgresql of a member whose agent does not answer, with 17/main in the cluster and 15/other beside it."""
    for name in ("RECORD", "CLUSTER_YML"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
        (tmp_path / name.lower()).write_text("{}")
    for server in ("17/main", "15/other"):
        (tmp_path / server / "conf.d").mkdir(parents=True)
    (tmp_path / "17/main/conf.d/pgpool2-cluster.conf").touch()
    monkeypatch.setattr(hook, "_ETC", tmp_path)
    monkeypatch.setattr(hook, "ask", _silent)
    return tmp_path


@pytest.mark.usefixtures("etc")
@pytest.mark.parametrize(("server", "status"), [("17-main", 1), ("15-other", 0), ("16-new", 0)])
def test_in_the_middle_of_a_dist_upgrade_only_the_clusters_server_stays_down(
    server: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without python3-yaml, no server of the host was started."""
    monkeypatch.delattr(pgpool_cluster, "server", raising=False)
    monkeypatch.setitem(sys.modules, "pgpool_cluster.server", None)  # as where a module that it imports is missing
    assert hook.run(["may-start", server]) == status


@pytest.mark.usefixtures("etc")
def test_a_fault_of_its_own_starts_what_is_not_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_a_peers_key_opens_and_a_witness_reads_no_wal(
    words: list[str], asked: str, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAL is all data of the databases."""
    ran: list[str] = []
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", asked)
    monkeypatch.setattr(hook, "bridge", ran.append)

    def send(name: str, *_: object) -> bool:
        ran.append(name)
        return True

    monkeypatch.setattr("pgpool_cluster.archive.send", send)
    if done:
        assert hook.run(["ssh-command", *words]) == 0
    else:
        with pytest.raises(UsageError, match="for pgpool2-cluster only"):
            hook.run(["ssh-command", *words])
    assert ran == done


def test_a_request_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Endless:
        def readline(self, size: int = -1) -> str:
            assert 0 < size < 10_000
            return "x" * size

    monkeypatch.setattr(sys, "stdin", Endless())
    assert hook.run(["control"]) == 0
    assert capsys.readouterr().out.startswith("refused")
