"""The parts of a recovery in two stages: requests, statements, deadlines, and the state that each failure leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.nodes import NATIVE, away, pgpool, primary, seen
from tests.unit.cluster.threads import AT_ONCE

from pgpool_cluster import copying, recovery, two_stages
from pgpool_cluster.channel import SILENCE
from pgpool_cluster.cluster import Cluster, Parameter
from pgpool_cluster.cluster_file import parse
from pgpool_cluster.errors import ClusterError, OperationError, ServerError
from pgpool_cluster.facts import BackendState, ClusterFacts, NodeFacts, PgpoolFacts, WatchdogState
from pgpool_cluster.key import Role
from pgpool_cluster.node import Here
from pgpool_cluster.peers import Progress
from pgpool_cluster.protocol import (
    CancelActiveAnswer,
    CancelActiveRequest,
    CopyRequest,
    DetachRequest,
    NoteRequest,
    PcpRecoveryRequest,
    TakeUpRequest,
    WhyRequest,
)
from pgpool_cluster.record import Record

WITNESS = parse(
    "mode: native_replication\n"
    "nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, w: {address: 10.0.0.9, runs: [pgpool]}}", "cluster.yml", "pg1",
)  # fmt: skip
OUT = NodeFacts("pg3", member=True, term=1, led=1, system=7000)
"""pg3 is down, and pgpool-II has given it up."""
SERVING = seen(replace(primary("pg1"), pgpool=pgpool("pg3")), primary("pg2"), OUT)
ALL_IN = seen(replace(primary("pg1"), pgpool=pgpool()), primary("pg2"), primary("pg3"))
DETACH = DetachRequest("pg3", recovering=True)


class Clock:
    """A stand-in for `time` whose sleeps pass at once; `during` is called in each."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.during: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during()


class Server:
    """PostgreSQL of a node. `rows`: its answers, by a part of the SQL; an exception is raised."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.values: list[Sequence[object]] = []
        self.rows: dict[str, Any] = {"pg_cancel_backend": [(0,)]}

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self.sent.append(sql)
        self.values.append(values)
        found: Any = next((rows for part, rows in self.rows.items() if part in sql), [])
        if isinstance(found, Exception):
            raise found
        return list(found() if callable(found) else found)

    @contextmanager
    def session(self, database: str, **_: object) -> Iterator[Any]:
        rows: list[tuple[Any, ...]] = []

        def execute(sql: str) -> None:
            rows[:] = self.query(f"{database}: {sql}")

        yield SimpleNamespace(execute=execute, fetchall=lambda: list(rows))


class Node:
    """A node with a clock, a server, and facts that change from one round to the next.

    `asked`: the requests to other nodes, and to pgpool-II's nodes. `answers`: what they return or raise, by type.
    """

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, cluster: Cluster = NATIVE) -> None:
        self.clock, self.server = Clock(), Server()
        self.rounds: list[ClusterFacts] = [SERVING]
        self.asked: list[tuple[str, object]] = []
        self.answers: dict[type[object], Any] = {}
        self.said: list[str] = []
        self.joined: list[float | None] = []
        """The time limits with which the watchdog's members were awaited."""
        self.outsider: ClusterError | None = None
        database: Any = self.server
        peers: Any = SimpleNamespace(ask=self._ask, ask_all=self._ask_all)
        record = Record(system=7000, term=1, led=1)
        self.here = Here(cluster, cluster.named(name), database, peers, record)
        for module in (two_stages, recovery):
            monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(two_stages, "threading", AT_ONCE)
        monkeypatch.setattr(two_stages, "await_joined", self._await_joined)
        monkeypatch.setattr(Record, "save", lambda *_: None)
        monkeypatch.setattr(Here, "look_at_all", lambda _, **__: self._facts())
        monkeypatch.setattr(Here, "look", lambda here: self.rounds[0].of(here.me.name))
        monkeypatch.setattr(Here, "on", lambda _, name, request, **__: self._ask(name, request))

    def _facts(self) -> ClusterFacts:
        return self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]

    def _ask(self, name: str, request: object, **_: object) -> Any:
        self.asked.append((name, request))
        found = self.answers.get(type(request))
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found

    def _ask_all(self, request: object, **_: object) -> dict[str, CancelActiveAnswer]:
        return dict.fromkeys(("pg2", "pg3"), self._ask("all", request))

    def _await_joined(self, _: Here, progress: Progress, *, seconds: float | None = None) -> None:
        del progress
        self.joined.append(seconds)
        if self.outsider is not None:
            raise self.outsider

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def pg1(monkeypatch: pytest.MonkeyPatch) -> Node:
    """The main node."""
    return Node("pg1", monkeypatch)


@pytest.fixture
def pg3(monkeypatch: pytest.MonkeyPatch) -> Node:
    """The node that is rebuilt."""
    return Node("pg3", monkeypatch)


# The request for a recovery


def test_a_node_that_is_down_is_rebuilt_by_the_leading_pgpool(pg3: Node) -> None:
    two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.asked == [("pg1", PcpRecoveryRequest("pg3"))]
    assert pg3.said == ["pgpool-II of pg1 rebuilds pg3"]
    assert pg3.here.record.led == 1
    assert (pg3.here.telling, pg3.here.recovering.locked()) == (None, False)


def test_progress_of_the_stages_reaches_the_requester(pg3: Node) -> None:
    def recover() -> None:
        assert pg3.here.telling is not None
        pg3.here.telling("10 of 20 bytes")

    pg3.answers[PcpRecoveryRequest] = recover
    two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.said[-1] == "10 of 20 bytes"


def test_a_node_in_service_is_refused_before_anything_changes(pg3: Node) -> None:
    pg3.rounds = [ALL_IN]
    with pytest.raises(OperationError, match="pg3 needs no recovery"):
        two_stages.rebuild(pg3.here, pg3.say)
    assert (pg3.asked, pg3.here.record.led, pg3.here.recovering.locked()) == ([], 1, False)


def test_a_forced_recovery_takes_a_node_out_of_service_before_it_is_detached(pg3: Node) -> None:
    """From the detachment on, it lacks the writes of the others, whatever happens to its recovery."""
    led: list[int] = []
    pg3.answers[DetachRequest] = lambda: led.append(pg3.here.record.led)
    pg3.rounds = [ALL_IN, ALL_IN, ALL_IN, SERVING]
    two_stages.rebuild(pg3.here, pg3.say, force=True)
    assert pg3.asked == [("pg1", DETACH), ("pg1", PcpRecoveryRequest("pg3"))]
    assert led == [0]
    assert pg3.joined == [None], "every pgpool-II has to be in the watchdog before"


def test_a_forced_recovery_leaves_a_node_in_service_if_a_pgpool_has_not_joined(pg3: Node) -> None:
    pg3.rounds = [ALL_IN]
    pg3.outsider = OperationError("pgpool-II of pg2 has not joined", hint="")
    with pytest.raises(OperationError, match="has not joined"):
        two_stages.rebuild(pg3.here, pg3.say, force=True)
    assert (pg3.asked, pg3.here.record.led) == ([], 1)


def test_without_another_node_in_service_nothing_is_rebuilt(pg3: Node) -> None:
    pg3.rounds = [seen(away("pg1"), away("pg2"), OUT)]
    with pytest.raises(OperationError, match="no other node is in service that pg3 could be copied from"):
        two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.asked == []
    assert 10 <= pg3.clock.now - 1000 < 11, "the others may still be booting"


def test_databases_of_a_new_node_are_not_replaced(pg3: Node) -> None:
    own = NodeFacts("pg3", databases=("payroll",), system=8000)
    pg3.rounds = [seen(replace(primary("pg1"), pgpool=pgpool("pg3")), primary("pg2"), own)]
    with pytest.raises(OperationError, match="payroll"):
        two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.asked == []


@pytest.mark.parametrize("known", ["", "pg_basebackup: no space"])
def test_the_reason_of_the_part_that_failed_is_reported(known: str, pg3: Node) -> None:
    def fails() -> None:
        pg3.here.failure = known or pg3.here.failure
        raise OperationError("pcp_recovery_node: ERROR: recovery failed", hint="")

    pg3.here.failure = "the failure of an earlier recovery"
    pg3.answers[PcpRecoveryRequest] = fails
    with pytest.raises(OperationError) as failure:
        two_stages.rebuild(pg3.here, pg3.say)
    expected = known or "pcp_recovery_node: ERROR: recovery failed"
    assert failure.value.message == pg3.here.failure == expected


# A recovery that runs already


class Lock:
    """A stand-in for the lock of a running recovery, which is released after this number of waits."""

    def __init__(self, waits: int) -> None:
        self.waits = waits
        self.held = True

    def acquire(self, *, blocking: bool = True, timeout: float = 0.0) -> bool:
        if not blocking:
            return False
        assert timeout > 0
        self.waits -= 1
        return self.waits < 0

    def release(self) -> None:
        self.held = False


@pytest.mark.parametrize("failure", ["", "pg_basebackup: no space"])
def test_a_second_request_waits_for_the_recovery_that_runs(failure: str, pg3: Node) -> None:
    lock: Any = Lock(2)
    pg3.here.recovering, pg3.here.failure = lock, failure
    if failure:
        with pytest.raises(OperationError, match=failure):
            two_stages.rebuild(pg3.here, pg3.say)
    else:
        two_stages.rebuild(pg3.here, pg3.say)
    assert pg3.said == ["pg3 is being rebuilt already", "it still is", "it still is"]
    assert (pg3.asked, lock.held) == ([], False)


# The pgpool-II that rebuilds it


def test_a_leader_that_is_missing_for_a_moment_is_awaited(pg3: Node) -> None:
    """A leader does not answer while it handles the loss of a node."""
    quiet = seen(replace(primary("pg1"), pgpool=None), primary("pg2"), OUT)
    pg3.rounds = [quiet, quiet, SERVING]
    assert two_stages._pooler(pg3.here) == "pg1"


def test_without_a_leading_pgpool_within_10_s_the_recovery_fails(pg3: Node) -> None:
    pg3.rounds = [seen(replace(primary("pg1"), pgpool=pgpool(quorum=False)), primary("pg2"), OUT)]
    with pytest.raises(OperationError, match="no pgpool-II leads"):
        two_stages._pooler(pg3.here)
    assert 10 <= pg3.clock.now - 1000 < 11


def test_a_witness_that_leads_leaves_the_recovery_to_a_pgpool_on_a_database_node() -> None:
    up = {"pg1": BackendState.UP, "pg2": BackendState.DOWN}
    joining, joined, leads = (
        PgpoolFacts(state, True, up) for state in (WatchdogState.OTHER, WatchdogState.STANDBY, WatchdogState.LEADER)
    )
    witness = NodeFacts("w", pgpool=leads)
    first, second = replace(primary("pg1"), pgpool=joining), replace(primary("pg2"), pgpool=joined)
    assert two_stages.rebuilds(WITNESS, seen(first, second, witness), "w") == "pg2"
    assert two_stages.rebuilds(WITNESS, seen(first, second, witness), "pg1") == "pg1"
    assert two_stages.rebuilds(WITNESS, seen(first, witness), "w") == "w"


def test_a_node_is_detached_by_one_request_and_once_pgpool_answers(pg3: Node) -> None:
    quiet = seen(replace(primary("pg1"), pgpool=None), primary("pg2"), primary("pg3"))
    pg3.rounds = [quiet, ALL_IN, ALL_IN, quiet, SERVING]
    two_stages._take_out(pg3.here, "pg1")
    assert pg3.asked == [("pg1", DETACH)]
    assert len(pg3.rounds) == 1


def test_a_node_that_pgpool_does_not_detach_within_40_s_is_not_rebuilt(pg3: Node) -> None:
    pg3.rounds = [ALL_IN]
    with pytest.raises(OperationError, match="pgpool-II of pg1 does not give pg3 up"):
        two_stages._take_out(pg3.here, "pg1")
    assert 40 <= pg3.clock.now - 1000 < 41
    assert pg3.asked == [("pg1", DETACH)]


# The first stage, on the main node


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times from which sessions are watched."""
    found: list[float] = []
    monkeypatch.setattr(two_stages, "_watch_sessions", lambda here: found.append(here.draining))
    return found


def test_the_first_stage_has_the_target_copy_and_then_checkpoints(pg1: Node, watched: list[float]) -> None:
    needed: list[str] = []
    pg1.server.rows["pg_walfile_name"] = [("000000010000000000000003",)]
    pg1.answers[CopyRequest] = lambda: needed.append(pg1.here.archive_needed)
    pg1.here.taken_up = "pg2"
    two_stages.first_stage(pg1.here, "pg3", pg1.say)
    assert pg1.asked == [("pg3", CopyRequest("pg1"))]
    assert needed == ["000000010000000000000003"], "the archive is kept from before the copy"
    assert pg1.server.sent[1:] == ["postgres: SET statement_timeout = 0", "postgres: CHECKPOINT"]
    assert (pg1.here.taken_up, pg1.here.draining, watched) == ("", 1000.0, [1000.0])
    assert pg1.here.archive_needed == "000000010000000000000003"


def test_a_copy_that_fails_needs_no_archive_and_ends_no_sessions(pg1: Node, watched: list[float]) -> None:
    pg1.server.rows["pg_walfile_name"] = [("000000010000000000000003",)]
    pg1.answers[CopyRequest] = OperationError("no space", hint="")
    with pytest.raises(OperationError, match="no space"):
        two_stages.first_stage(pg1.here, "pg3", pg1.say)
    assert (pg1.here.archive_needed, pg1.here.draining, watched) == ("", 0.0, [])


def test_a_checkpoint_that_fails_ends_the_first_stage(pg1: Node, watched: list[float]) -> None:
    pg1.server.rows |= {"pg_walfile_name": [("0",)], "CHECKPOINT": psycopg2.OperationalError("no space left\n")}
    with pytest.raises(OperationError, match="CHECKPOINT: no space left"):
        two_stages.first_stage(pg1.here, "pg3", pg1.say)
    assert (pg1.here.archive_needed, pg1.here.draining, watched) == ("", 0.0, [])


# The second stage, on the main node


POSITION = {"pg_current_wal_insert_lsn": [("0/3000060",)], "pg_database": [("app",)]}


def test_the_second_stage_hands_the_end_of_the_wal_to_the_target(pg1: Node) -> None:
    pg1.server.rows |= {**POSITION, "relkind = 'S'": [("SELECT setval('a', 7)",), ("SELECT setval('b', 9)",)]}
    pg1.here.archive_needed, pg1.here.draining = "000000010000000000000003", 5.0
    two_stages.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.asked == [("pg3", NoteRequest()), ("pg3", TakeUpRequest("pg1", "0/3000060", 1))]
    sent = [sql for sql in pg1.server.sent if sql != f"app: {two_stages._SEQUENCES}"]
    assert sent[1:5] == ["app: SELECT setval('a', 7)", "app: SELECT setval('b', 9)",
                         "SELECT pg_current_wal_insert_lsn()", "SELECT pg_switch_wal()"]  # fmt: skip
    assert "pg_drop_replication_slot" in sent[5]
    assert pg1.server.values[-1] == ("pg3",)
    assert (pg1.here.taken_up, pg1.here.archive_needed, pg1.here.draining) == ("pg3", "", 0.0)


def test_a_slot_that_cannot_be_dropped_does_not_fail_the_second_stage(pg1: Node) -> None:
    pg1.server.rows |= {**POSITION, "pg_drop_replication_slot": psycopg2.OperationalError("it is active")}
    two_stages.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.here.taken_up == "pg3"


@pytest.mark.parametrize("broken", [NoteRequest, TakeUpRequest])
def test_the_target_gets_the_reason_of_a_second_stage_that_fails(broken: type[object], pg1: Node) -> None:
    pg1.server.rows |= POSITION
    pg1.here.archive_needed = "000000010000000000000003"
    pg1.answers[broken] = ServerError("pg3 is out of reach", hint="")
    with pytest.raises(ServerError, match="pg3 is out of reach"):
        two_stages.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.asked[-1] == ("pg3", WhyRequest("pg3 is out of reach"))
    assert (pg1.here.taken_up, pg1.here.archive_needed) == ("", "")
    assert not [sql for sql in pg1.server.sent if "pg_drop_replication_slot" in sql], "its next copy needs the slot"


def test_a_pgpool_that_has_not_joined_fails_the_second_stage_although_the_target_is_gone(pg1: Node) -> None:
    pg1.outsider = OperationError("pgpool-II of pg2 has not joined", hint="")
    pg1.answers[WhyRequest] = ServerError("pg3 is out of reach", hint="")
    with pytest.raises(OperationError, match="pg2 has not joined"):
        two_stages.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.joined == [1.0], "clients wait, so it waits for 1 s only"
    assert pg1.server.sent == []


def test_sequences_that_cannot_be_written_fail_the_second_stage(pg1: Node) -> None:
    pg1.server.rows |= {**POSITION, "relkind = 'S'": psycopg2.OperationalError("permission denied\n")}
    with pytest.raises(OperationError, match="sequences of app: permission denied"):
        two_stages.second_stage(pg1.here, "pg3", pg1.say)
    assert not [request for _, request in pg1.asked if isinstance(request, TakeUpRequest)]


# Sessions that do not end


def test_statements_are_cancelled_on_all_nodes_until_the_second_stage_begins(
    pg1: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    pg1.server.rows["pg_cancel_backend"] = [(1,)]
    pg1.answers[CancelActiveRequest] = CancelActiveAnswer(2)
    pg1.here.draining, pg1.here.archive_needed = pg1.clock.now, "000000010000000000000003"

    def begins() -> None:
        if pg1.clock.now >= 1005:
            pg1.here.draining = 0.0

    pg1.clock.during = begins
    two_stages._watch_sessions(pg1.here)
    assert [request for _, request in pg1.asked] == [CancelActiveRequest(0.0), CancelActiveRequest(1.0)]
    assert capsys.readouterr().out.count("sessions did not end within 3 s") == 1
    assert pg1.here.archive_needed == "000000010000000000000003", "the second stage resets it"


def test_writes_of_the_main_node_may_end_on_the_others_for_10_s_at_most(pg1: Node) -> None:
    pg1.answers[CancelActiveRequest] = CancelActiveAnswer(0)
    pg1.here.draining = pg1.clock.now
    pg1.here.cluster = replace(NATIVE, pgpool=(Parameter("recovery_timeout", "90"),))
    pg1.clock.during = lambda: setattr(pg1.here, "draining", pg1.here.draining if pg1.clock.now < 1016 else 0.0)
    two_stages._watch_sessions(pg1.here)
    limits = [request.since for _, request in pg1.asked if isinstance(request, CancelActiveRequest)]
    assert limits == [*map(float, range(10)), 1e9, 1e9, 1e9]
    pg1.asked.clear()
    pg1.clock.now = pg1.here.draining = 1000.0
    pg1.here.cluster = replace(NATIVE, pgpool=(Parameter("recovery_timeout", "9"),))
    two_stages._watch_sessions(pg1.here)
    limits = [request.since for _, request in pg1.asked if isinstance(request, CancelActiveRequest)]
    assert limits[:4] == [0.0, 1.0, 2.0, 1e9], "half of the time that pgpool-II has left"


def test_sessions_are_watched_for_half_an_hour_at_most(pg1: Node, capsys: pytest.CaptureFixture[str]) -> None:
    pg1.answers[CancelActiveRequest] = CancelActiveAnswer(0)
    pg1.here.draining, pg1.here.archive_needed = pg1.clock.now, "000000010000000000000003"
    two_stages._watch_sessions(pg1.here)
    assert SILENCE <= pg1.clock.now - 1000 <= SILENCE + 1
    assert pg1.here.archive_needed == ""
    assert "sessions did not end" not in capsys.readouterr().out, "no statement was cancelled"


def test_the_clusters_own_sessions_are_not_cancelled(pg1: Node) -> None:
    pg1.server.rows["pg_cancel_backend"] = [(4,)]
    assert two_stages.cancel_active(pg1.here, 2.5) == 4
    assert pg1.server.values == [([*Role, "postgres"], 2.5)]


def test_a_server_that_does_not_answer_has_no_statements_to_cancel(pg1: Node) -> None:
    pg1.server.rows["pg_cancel_backend"] = psycopg2.OperationalError("it is gone")
    assert two_stages.cancel_active(pg1.here, 2.5) == 0


# The first stage, on the target


class Clone:
    """A stand-in for `copying.clone`."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node, self.ran, self.fails = node, list[tuple[object, ...]](), False
        monkeypatch.setattr(copying, "clone", self._clone)

    def _clone(self, here: Here, source: str, report: Callable[[str], None], *, member: bool) -> None:
        self.ran.append((source, member, here.record.led, here.record.held, here.promoting))
        report("half")
        if self.fails:
            raise OperationError("no space", hint="")


@pytest.fixture
def clone(pg3: Node, monkeypatch: pytest.MonkeyPatch) -> Clone:
    return Clone(pg3, monkeypatch)


def test_the_target_is_out_of_service_while_it_is_copied_and_awaits_the_second_stage(pg3: Node, clone: Clone) -> None:
    requester: list[str] = []
    pg3.here.telling = requester.append
    pg3.here.remember(held=True)
    two_stages.copy(pg3.here, "pg1", pg3.say)
    assert clone.ran == [("pg1", False, 0, False, True)]
    assert pg3.said == requester == ["half", "sessions are asked to end; new clients wait"]
    assert pg3.joined == [None, 600.0], "before the copy, and longer after it"
    assert pg3.here.promoting
    assert pg3.here.awaited == 1000 + NATIVE.recovery_timeout + 30


def test_a_target_whose_copy_fails_awaits_nothing(pg3: Node, clone: Clone) -> None:
    clone.fails = True
    with pytest.raises(OperationError, match="no space"):
        two_stages.copy(pg3.here, "pg1", pg3.say)
    assert (pg3.here.promoting, pg3.here.failure, pg3.here.awaited) == (False, "no space", 0.0)
    assert pg3.said == ["half"], "no requester was there"


# The second stage, on the target


DONE = {"pg_last_wal_replay_lsn": [("0/3000060", True)], "pg_promote": [(True,)], "system_identifier": [(7001,)]}


def test_the_target_becomes_a_primary_and_awaits_its_attachment(pg3: Node) -> None:
    pg3.server.rows |= DONE
    pg3.here.remember(copying="pg1", term=2)
    two_stages.take_up(pg3.here, "pg1", "0/3000060", 5, pg3.say)
    sent = [sql.split(",")[0] for sql in pg3.server.sent[1:]]
    assert sent == [
        "ALTER SYSTEM SET restore_command = ''", "SELECT pg_reload_conf()", "SELECT pg_promote(true",
        "ALTER SYSTEM RESET primary_conninfo", "ALTER SYSTEM RESET primary_slot_name",
        "ALTER SYSTEM RESET restore_command", "SELECT pg_reload_conf()",
        "SELECT system_identifier FROM pg_control_system()",
    ]  # fmt: skip
    record = pg3.here.record
    assert (record.system, record.copying, record.term) == (7001, "", 5)
    assert pg3.here.promoting
    assert pg3.here.awaited == 1000 + NATIVE.recovery_timeout + 30


def test_a_term_that_the_target_knows_already_is_kept(pg3: Node) -> None:
    pg3.server.rows |= DONE
    pg3.here.remember(term=9)
    two_stages.take_up(pg3.here, "pg1", "0/3000060", 5, pg3.say)
    assert pg3.here.record.term == 9


def test_a_target_that_cannot_be_promoted_stays_half_a_copy(pg3: Node) -> None:
    pg3.server.rows |= {**DONE, "pg_promote": [(False,)]}
    pg3.here.remember(copying="pg1")
    with pytest.raises(OperationError, match="PostgreSQL did not end its recovery"):
        two_stages.take_up(pg3.here, "pg1", "0/3000060", 5, pg3.say)
    assert (pg3.here.promoting, pg3.here.failure) == (False, "PostgreSQL did not end its recovery")
    assert pg3.here.record.copying == "pg1"


def replaying(node: Node, position: Callable[[float], float], end: float) -> None:
    """Let the server replay up to `position` at each second, and be done at `end`."""

    def row() -> list[tuple[str, bool]]:
        place = position(node.clock.now - 1000)
        return [(f"0/{int(place):X}", place >= end)]

    node.server.rows["pg_last_wal_replay_lsn"] = row


def test_a_replay_that_makes_progress_may_take_long(pg3: Node) -> None:
    replaying(pg3, lambda seconds: 100 * seconds, 2000)
    two_stages._replay(pg3.here, "pg1", "0/7D0", pg3.say)
    assert 20 <= pg3.clock.now - 1000 < 21
    assert pg3.server.sent == [two_stages._REPLAYED] * len(pg3.server.sent), "it goes on streaming"
    assert len(pg3.said) in (18, 19)
    assert pg3.said[0].endswith("to 0/7D0")


def test_the_archive_is_read_if_the_stream_stands_still_for_1_s(pg3: Node) -> None:
    replaying(pg3, lambda seconds: 0 if seconds < 2 else 100, 100)
    two_stages._replay(pg3.here, "pg1", "0/64", pg3.say)
    sent = [sql for sql in pg3.server.sent if sql != two_stages._REPLAYED]
    assert sent == ["ALTER SYSTEM SET primary_conninfo = ''", "ALTER SYSTEM RESET restore_command",
                    "SELECT pg_reload_conf()"]  # fmt: skip
    assert "pg1 does not stream: the rest comes from its archive" in pg3.said


def test_a_replay_that_stands_still_is_given_up_after_5_s(pg3: Node) -> None:
    """Clients wait for it: 1 s for the stream, and 4 s for the archive."""
    replaying(pg3, lambda _: 0, 100)
    with pytest.raises(OperationError, match="the last changes of pg1 did not arrive"):
        two_stages._replay(pg3.here, "pg1", "0/64", pg3.say)
    assert 5 <= pg3.clock.now - 1000 < 5.2


# The end of a recovery


IN = replace(primary("pg3"), led=0)


@pytest.fixture
def rebuilt(pg3: Node) -> Node:
    """pg3 as a primary that awaits its attachment."""
    pg3.here.promoting, pg3.here.awaited = True, pg3.clock.now + 60
    pg3.here.remember(led=0, term=3, apart=True)
    leading = replace(primary("pg1", term=4, led=4), pgpool=pgpool(), restart=2)
    pg3.rounds = [seen(leading, primary("pg2", term=4, led=4), replace(IN, term=3))]
    return pg3


def test_a_rebuilt_node_is_in_service_in_the_term_of_the_main_node_once_it_is_attached(rebuilt: Node) -> None:
    two_stages.attend(rebuilt.here)
    record = rebuilt.here.record
    assert (record.led, record.term, record.restart, record.apart) == (4, 4, 2, False)
    assert not rebuilt.here.promoting


def test_a_rebuilt_node_has_every_write_although_the_main_node_is_gone(rebuilt: Node) -> None:
    leading = NodeFacts("pg1", pgpool=pgpool())
    rebuilt.rounds = [seen(leading, away("pg2"), replace(IN, term=3))]
    two_stages.attend(rebuilt.here)
    assert (rebuilt.here.record.led, rebuilt.here.record.term) == (3, 3)


@pytest.mark.parametrize(
    "break_",
    [
        pytest.param(lambda node: node.here.remember(copying="pg1"), id="half a copy"),
        pytest.param(lambda node: _change(node, "pg3", in_recovery=True), id="it takes no writes"),
        pytest.param(lambda node: _change(node, "pg1", pgpool=pgpool("pg3")), id="not attached"),
        pytest.param(lambda node: _change(node, "pg2", pgpool=pgpool("pg3")), id="another leader disagrees"),
        pytest.param(lambda node: _change(node, "pg1", pgpool=pgpool(leader=False)), id="no leader in sight"),
    ],
)
def test_until_then_a_rebuilt_node_is_not_in_service(break_: Callable[[Node], object], rebuilt: Node) -> None:
    break_(rebuilt)
    two_stages.attend(rebuilt.here)
    assert (rebuilt.here.record.led, rebuilt.here.promoting) == (0, True)


def _change(node: Node, name: str, **changes: Any) -> None:
    facts = node.rounds[0]
    node.rounds = [ClusterFacts({**facts.nodes, name: replace(facts.of(name), **changes)})]
