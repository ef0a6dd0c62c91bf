"""pgpool-II's view, as its pcp commands print it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.clock import Clock

from pgpool_cluster.decision.facts.facts import BackendState, PgpoolFacts, Standing, WatchdogState
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths, programs, waiting
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.ground.programs import LateProgramError, ProgramError
from pgpool_cluster.machine import pgpool

NODES = ("pg1", "pg2", "pg3", "pg4", "pg5")
FIVE = f"nodes: {{{', '.join(f'{name}: 10.0.0.{name[2]}' for name in NODES)}}}\n"
CLUSTER = parse(FIVE, "cluster.yml", "pg3")
WATCHED = parse(f"{FIVE}mode: native_replication\n", "cluster.yml", "pg3")
"""A cluster whose pgpool-IIs have a watchdog."""
SILENT_SECONDS = 0.3
"""How long pgpool-II waits for one silent host here; a tenth of the real time."""


@pytest.fixture(autouse=True)
def _no_redirection(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is under way."""
    monkeypatch.setattr(pgpool, "_redirection", pgpool._Redirection())


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
    up = dict.fromkeys(NODES, BackendState.UP)
    assert found == PgpoolFacts(WatchdogState.ALONE, True, up, "pg1")
    monkeypatch.setattr(pgpool, "_all", pgpool._All())
    assert pgpool.look(WATCHED) == PgpoolFacts(WatchdogState.LEADER, True, up, "pg1")


def test_a_node_that_is_known_to_be_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """pgpool-II connects to it for three seconds, and the leading node would detach it only after that."""
    monkeypatch.setattr(pgpool, "_SILENT_SECONDS", 0.01)
    monkeypatch.setattr(pgpool, "listens", lambda *_, **__: True)
    asked = Pgpool({"pg1"})
    monkeypatch.setattr(pgpool, "pcp", asked.pcp)
    began = time.monotonic()
    found = pgpool.look(CLUSTER, {"pg1"})
    assert time.monotonic() - began < SILENT_SECONDS
    assert found is not None
    assert found.backends == dict.fromkeys(NODES, BackendState.UP)


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
    assert pgpool.look(WATCHED) is None
    assert questions == [("pcp_node_info", "-a")]
    refuses = False
    assert pgpool.look(WATCHED) is not None
    assert questions[1:] == [("pcp_node_info", "-a"), ("pcp_watchdog_info", "-v")]


class Program:
    """pgpool-II's commands, all of which end in the same way; an exception is raised."""

    def __init__(self) -> None:
        self.ends: tuple[int, str, str] | Exception = (0, "", "")
        self.ran: list[list[str]] = []
        self.limits: list[float] = []
        self.environment: dict[str, str] = {}

    def attempt(
        self, words: Sequence[str], *, seconds: float = 30, environment: dict[str, str] | None = None
    ) -> programs.Ended:
        self.ran.append(list(words))
        self.limits.append(seconds)
        self.environment = environment or {}
        if isinstance(self.ends, Exception):
            raise self.ends
        return subprocess.CompletedProcess(words, *self.ends)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    found = Program()
    monkeypatch.setattr(programs, "attempt", found.attempt)
    return found


def test_a_pcp_command_never_waits_for_a_password(program: Program) -> None:
    program.ends = (0, "LEADER\n", "")
    assert pgpool.pcp("pcp_watchdog_info", "-v") == "LEADER\n"
    assert program.ran == [
        ["/usr/sbin/pcp_watchdog_info", "-h", "/var/run/postgresql", "-p", "9898", "-U", "pgpool_pcp", "-w", "-v"]
    ]
    assert program.environment["PCPPASSFILE"] == "/var/lib/postgresql/.pcppass"


@pytest.mark.parametrize(
    ("ends", "said"),
    [((1, "", "ERROR:  connection refused\n"), "ERROR:  connection refused"),
     ((0, "", "note\nFATAL:  failed\nDETAIL:  no such node\n"), "FATAL:  failed DETAIL:  no such node"),
     ((0, "ERROR:  printed there\n", ""), "ERROR:  printed there"),
     ((1, "something else\n", ""), "something else"), ((3, "", ""), "3"),
     (ProgramError("pcp", "this program is not installed"), "this program is not installed")],
    ids=["status", "FATAL with status 0", "in its output", "no ERROR", "nothing", "absent"],
)  # fmt: skip
def test_a_pcp_command_that_fails_is_reported_whatever_its_status(
    program: Program, ends: tuple[int, str, str] | Exception, said: str
) -> None:
    program.ends = ends
    with pytest.raises(OperationError) as caught:
        pgpool.pcp("pcp_attach_node", "-n", "0")
    assert caught.value.message == f"pcp_attach_node: {said}"
    assert caught.value.hint == "see journalctl -u pgpool2.service"
    assert not isinstance(caught.value, pgpool.LateError)


def test_a_late_answer_differs_from_a_failure(program: Program) -> None:
    """Only a late one makes the agent query the nodes separately."""
    program.ends = LateProgramError("pcp_node_info", "it did not end within 1 s")
    with pytest.raises(pgpool.LateError, match="pcp_node_info: it did not end within 1 s"):
        pgpool.pcp("pcp_node_info", "-a")


LISTENING = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:270F 00000000:0000 0A 00000000:00000000 00:00000000 00000000  {own}        0 1 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000  4242        0 2 1
   2: 0100007F:1538 0100007F:D431 01 00000000:00000000 00:00000000 00000000  {own}        0 3 1
"""


@pytest.mark.parametrize("family", ["tcp", "tcp6"])
def test_only_a_program_that_listens_counts_and_it_must_be_pgpools_user(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, **_: object) -> str:
        if str(path) == f"/proc/net/{family}":
            return LISTENING.format(own=os.getuid())
        raise FileNotFoundError(path)  # a kernel without IPv6

    monkeypatch.setattr(Path, "read_text", read)
    assert pgpool.listens(9999)
    assert not pgpool.listens(22), "another user's program would count as pgpool-II"
    assert pgpool.listens(22, anybody=True)
    assert not pgpool.listens(5432, anybody=True), "it is a client's connection"


ALONE = parse("nodes: {pg1: 10.0.0.1}", "cluster.yml", "pg1")


def watchdog(state: str, *standbys: str) -> str:
    others = "".join(f"Host Name : {one}\nStatus Name : STANDBY\n" for one in standbys)
    return f"Quorum state : QUORUM EXIST\nHost Name : 10.0.0.3\nStatus Name : {state}\n{others}"


@pytest.mark.parametrize(("state", "leads"), [("LEADER", True), ("STANDBY", False), ("JOINING", False)])
def test_the_first_node_in_the_answer_is_the_queried_one(program: Program, state: str, leads: bool) -> None:
    program.ends = (0, watchdog(state, "10.0.0.1"), "")
    assert pgpool.leads(WATCHED) is leads


@pytest.mark.parametrize("cluster", [CLUSTER, ALONE], ids=["streaming replication", "one node"])
def test_without_a_watchdog_every_pgpool_leads_and_none_is_asked(program: Program, cluster: Cluster) -> None:
    program.ends = (1, "", "ERROR:  connection refused\n")
    assert not pgpool.leads(WATCHED)
    program.ran.clear()
    assert pgpool.leads(cluster)
    assert program.ran == []


def test_a_standing_names_the_standbys_and_is_known_without_an_answer(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgpool, "listens", lambda number, **_: number == CLUSTER.pool_port)
    program.ends = (0, watchdog("LEADER", "10.0.0.1", "10.0.0.5", "10.9.9.9"), "")
    assert pgpool.standing(CLUSTER) == Standing(True, WatchdogState.LEADER, frozenset({"pg1", "pg5"}))
    program.ends = LateProgramError("pcp_watchdog_info", "it did not end within 2 s")
    assert pgpool.standing(CLUSTER) == Standing(True, WatchdogState.OTHER)
    assert program.limits == [2, 2]


def test_the_status_file_has_a_word_per_node_in_the_order_of_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgpool, "STATUS", tmp_path / "pgpool_status")
    pgpool.write_status(CLUSTER, ["pg5", "pg1"])
    assert pgpool.STATUS.read_text() == "up\ndown\ndown\ndown\nup\n"


def attached(monkeypatch: pytest.MonkeyPatch, rounds: float, *, wait: bool = True) -> tuple[list[Any], Clock]:
    """Attach pg2, which pgpool-II shows as up after this many queries."""
    asked: list[Any] = []
    clock = Clock()

    def pcp(name: str, *words: str, **_: object) -> str:
        asked.append((name, *words))
        return f"10.0.0.2 5432 1 0.2 {'up' if len(asked) > rounds else 'down'} up standby standby 0\n"

    monkeypatch.setattr(pgpool, "pcp", pcp)
    monkeypatch.setattr(waiting, "time", clock)
    pgpool.attach(CLUSTER, CLUSTER.named("pg2"), wait=wait)
    return asked, clock


def test_an_attachment_waits_until_pgpool_shows_the_node_as_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, _ = attached(monkeypatch, 3)
    assert asked == [("pcp_attach_node", "-n", "1"), *[("pcp_node_info", "-n", "1")] * 3]
    asked, _ = attached(monkeypatch, 3, wait=False)
    assert asked == [("pcp_attach_node", "-n", "1")]


def test_an_attachment_without_effect_is_reported_with_the_command_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperationError, match="pgpool-II has not attached pg2") as caught:
        attached(monkeypatch, 10**6)
    assert caught.value.hint == "pgpoolctl attach pg2"


def test_a_node_is_detached_by_its_number(program: Program) -> None:
    pgpool.detach(CLUSTER, CLUSTER.named("pg4"))
    assert program.ran[0][-2:] == ["-n", "3"]


def test_a_redirection_that_is_under_way_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, pgpool-II would end all sessions and detach all other nodes twice."""
    now, asked = [100.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pgpool, "pcp", lambda *words, **_: asked.append(words[-1]))
    monkeypatch.setattr(pgpool, "_is_primary", lambda *_: True)
    for name in ("pg2", "pg2", "pg3", "pg2"):
        pgpool.redirect(CLUSTER, CLUSTER.named(name))
    assert asked == ["1", "2", "1"]
    now[0] += 1.1
    pgpool.redirect(CLUSTER, CLUSTER.named("pg2"))
    assert asked == ["1", "2", "1", "1"]


def test_a_redirection_to_the_present_primary_is_no_error(program: Program) -> None:
    program.ends = (1, "", "ERROR:  specified node is already primary node, can't promote node id 1\n")
    pgpool.redirect(CLUSTER, CLUSTER.named("pg2"))
    pgpool.redirect(CLUSTER, CLUSTER.named("pg2"))
    assert len(program.ran) == 2


def test_a_pgpool_learns_the_primary_and_promotes_nothing(program: Program) -> None:
    """With --switchover, it would call pg_promote and follow_primary_command."""
    program.ends = (0, "10.0.0.2 5432 2 0.2 up up primary primary 0 none none 2026-11-29 12:00:00\n", "")
    pgpool.redirect(CLUSTER, CLUSTER.named("pg2"))
    command, *words = program.ran[0]
    assert (command, words[-2:]) == ("/usr/sbin/pcp_promote_node", ["-n", "1"])
    assert not {"-s", "--switchover"} & set(words)


def test_a_redirection_ends_when_pgpool_shows_the_new_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then, pgpool-II would accept the same request again, and end its sessions once more."""
    asked: list[str] = []

    def pcp(name: str, *_: str, **__: float) -> str:
        asked.append(name)
        role = "primary" if len(asked) > 3 else "standby"
        return f"10.0.0.2 5432 2 0.2 up up {role} {role} 0 none none 2026-11-29 12:00:00\n"

    monkeypatch.setattr(pgpool, "pcp", pcp)
    pgpool.redirect(CLUSTER, CLUSTER.named("pg2"))
    assert asked == ["pcp_promote_node", *["pcp_node_info"] * 3]


def test_a_refused_redirection_is_reported(program: Program) -> None:
    program.ends = (1, "", "ERROR:  invalid node id\n")
    for _ in range(2):
        with pytest.raises(OperationError, match="pcp_promote_node: ERROR:  invalid node id"):
            pgpool.redirect(CLUSTER, CLUSTER.named("pg2"))


@pytest.mark.parametrize(("alive", "word"), [(True, "ALIVE"), (False, "DEAD")])
def test_the_watchdog_hears_of_a_node_ahead_of_its_lifecheck(program: Program, alive: bool, word: str) -> None:
    pgpool.tell_watchdog(CLUSTER, CLUSTER.named("pg2"), alive=alive)
    assert program.ran == [
        ["/usr/sbin/wd_cli", "-f", str(paths.PGPOOL_CONF), "-n", "1", "--inform", word, "-m", paths.UNIT]
    ]


def test_a_cluster_without_a_virtual_address_has_it_nowhere(program: Program) -> None:
    assert not pgpool.has_address(None)
    assert program.ran == []
    program.ends = (0, '[{"ifname": "eth0", "addr_info": [{"local": "10.0.0.50"}]}]', "")
    virtual = parse("nodes: {pg1: 10.0.0.1}\nvirtual_ip: 10.0.0.50/24\n", "cluster.yml", "pg1").virtual_ip
    assert pgpool.has_address(virtual)
    program.ends = (0, '[{"ifname": "eth0", "addr_info": [{"local": "10.0.0.5"}]}]', "")
    assert not pgpool.has_address(virtual)


def test_a_pgpool_that_does_not_listen_yet_is_not_queried(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a leader of the watchdog, and would refuse every pcp command with a line in its log."""
    monkeypatch.setattr(pgpool, "listens", lambda *_, **__: False)
    assert pgpool.look(CLUSTER) is None
    assert program.ran == []
