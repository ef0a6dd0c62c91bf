"""pgpool-II's view, as its pcp commands print it."""

from __future__ import annotations

import time

import pytest

from pgpool_cluster.decision.facts import BackendState, PgpoolFacts, WatchdogState
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool

NODES = ("pg1", "pg2", "pg3", "pg4", "pg5")
CLUSTER = parse(f"nodes: {{{', '.join(f'{name}: 10.0.0.{name[2]}' for name in NODES)}}}", "cluster.yml", "pg3")
SILENT_SECONDS = 0.3
"""How long pgpool-II waits for one silent host here; a tenth of the real time."""


class Pgpool:
    """A pgpool-II that believes all nodes to be up; it answers about a silent one only after waiting for its host."""

    def __init__(self, silent: set[str]) -> None:
        self.silent = silent
        self.late = 0

    def pcp(self, name: str, *words: str, seconds: float = SILENT_SECONDS * 1.7) -> str:
        if name == "pcp_watchdog_info":
            return "Quorum state : QUORUM EXIST\nHost Name : 10.0.0.4\nStatus Name : LEADER\n"
        asked = NODES if words == ("-a",) else (NODES[int(words[1])],)
        wait = SILENT_SECONDS * len(self.silent.intersection(asked))
        time.sleep(min(wait, seconds))
        if wait > seconds:
            self.late += 1
            raise pgpool.LateError(f"{name} timed out", hint="")
        return "".join(self._line(one) for one in asked)

    def _line(self, name: str) -> str:
        role = "primary" if name == "pg1" else "standby"
        actual, actual_role = ("down", "unknown") if name in self.silent else ("up", role)
        return f"10.0.0.{name[2]} 5432 2 0.2 up {actual} {role} {actual_role} 0 none none 2026-11-29 12:00:00\n"


def looked(silent: set[str], monkeypatch: pytest.MonkeyPatch) -> PgpoolFacts | None:
    monkeypatch.setattr(pgpool, "_ALL_NODES_SECONDS", SILENT_SECONDS / 3)
    monkeypatch.setattr(pgpool, "listens", lambda *_, **__: True)
    monkeypatch.setattr(pgpool, "_all", pgpool._All())
    asked = Pgpool(silent)
    monkeypatch.setattr(pgpool, "pcp", asked.pcp)
    assert pgpool.look(CLUSTER) == pgpool.look(CLUSTER)
    assert asked.late <= 1, "pgpool-II logs a FATAL for each that was late"
    return pgpool.look(CLUSTER)


@pytest.mark.parametrize("silent", [set(), {"pg1"}, {"pg1", "pg2"}, set(NODES) - {"pg3"}], ids=len)
def test_its_view_is_known_however_many_hosts_are_silent(silent: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With two silent hosts, pcp_node_info -a exceeded its limit, and every agent believed its pgpool-II to be down."""
    found = looked(silent, monkeypatch)
    assert found == PgpoolFacts(WatchdogState.LEADER, True, dict.fromkeys(NODES, BackendState.UP), "pg1")


def test_a_refusing_pgpool_gets_one_query_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cluster's configuration, it does not know the user, which causes neither a pause nor more queries."""
    questions, answers = [], Pgpool(set())
    refuses = True

    def pcp(name: str, *words: str, seconds: float = 1) -> str:
        questions.append((name, *words))
        if refuses:
            raise OperationError('FATAL:  authentication failed for user "pgpool_pcp"', hint="")
        return answers.pcp(name, *words)

    monkeypatch.setattr(pgpool, "listens", lambda *_, **__: True)
    monkeypatch.setattr(pgpool, "_all", pgpool._All())
    monkeypatch.setattr(pgpool, "pcp", pcp)
    assert pgpool.look(CLUSTER) is None
    assert questions == [("pcp_node_info", "-a")]
    refuses = False
    assert pgpool.look(CLUSTER) is not None
    assert questions[1:] == [("pcp_node_info", "-a"), ("pcp_watchdog_info", "-v")]
