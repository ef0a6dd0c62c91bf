"""The stages of a recovery on the main node: requests, statements, and what each failure leaves."""

from __future__ import annotations

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest
from tests.unit.cluster.stage_node import StageNode, draining

from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.recovery import main_node, sessions
from pgpool_cluster.transport.protocol import CopyRequest, NoteRequest, TakeUpRequest, WhyRequest


@pytest.fixture
def pg1(monkeypatch: pytest.MonkeyPatch) -> StageNode:
    """The main node."""
    return StageNode("pg1", monkeypatch)


# The first stage, on the main node


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times from which sessions are watched."""
    found: list[float] = []
    monkeypatch.setattr(sessions, "watch", lambda _, began: found.append(began))
    return found


def test_the_first_stage_has_the_target_copy_and_then_checkpoints(pg1: StageNode, watched: list[float]) -> None:
    needed: list[str] = []
    pg1.server.rows["pg_walfile_name"] = [("000000010000000000000003",)]
    pg1.answers[CopyRequest] = lambda: needed.append(pg1.here.under_way.drain.archive_from)
    with pg1.here.under_way.drain.finishing("pg2"):
        pass
    main_node.first_stage(pg1.here, "pg3", pg1.say)
    assert pg1.asked == [("pg3", CopyRequest("pg1"))]
    assert needed == ["000000010000000000000003"], "the archive is kept from before the copy"
    assert pg1.server.sent[1:] == ["postgres: SET statement_timeout = 0", "postgres: CHECKPOINT"]
    assert watched == [1000.0]
    assert not pg1.here.under_way.drain.take_primary("pg2")
    assert pg1.here.under_way.drain.archive_from == "000000010000000000000003"


def test_a_copy_that_fails_needs_no_archive_and_ends_no_sessions(pg1: StageNode, watched: list[float]) -> None:
    pg1.server.rows["pg_walfile_name"] = [("000000010000000000000003",)]
    pg1.answers[CopyRequest] = OperationError("no space", hint="")
    with pytest.raises(OperationError, match="no space"):
        main_node.first_stage(pg1.here, "pg3", pg1.say)
    assert (pg1.here.under_way.drain.archive_from, watched) == ("", [])


def test_a_checkpoint_that_fails_ends_the_first_stage(pg1: StageNode, watched: list[float]) -> None:
    pg1.server.rows |= {"pg_walfile_name": [("0",)], "CHECKPOINT": psycopg2.OperationalError("no space left\n")}
    with pytest.raises(OperationError, match="CHECKPOINT: no space left"):
        main_node.first_stage(pg1.here, "pg3", pg1.say)
    assert (pg1.here.under_way.drain.archive_from, watched) == ("", [])


# The second stage, on the main node


POSITION = {"pg_current_wal_insert_lsn": [("0/3000060",)], "pg_database": [("app",)]}


def test_the_second_stage_hands_the_end_of_the_wal_to_the_target(pg1: StageNode) -> None:
    pg1.server.rows |= {**POSITION, "relkind = 'S'": [("SELECT setval('a', 7)",), ("SELECT setval('b', 9)",)]}
    began = draining(pg1)
    main_node.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.asked == [("pg3", NoteRequest()), ("pg3", TakeUpRequest("pg1", "0/3000060", 1))]
    sent = [sql for sql in pg1.server.sent if sql != f"app: {main_node._SEQUENCES}"]
    assert sent[1:5] == ["app: SELECT setval('a', 7)", "app: SELECT setval('b', 9)",
                         "SELECT pg_current_wal_insert_lsn()", "SELECT pg_switch_wal()"]  # fmt: skip
    assert "pg_drop_replication_slot" in sent[5]
    assert pg1.server.values[-1] == ("pg3",)
    drain = pg1.here.under_way.drain
    assert (drain.archive_from, drain.goes_on(began)) == ("", False)
    assert drain.take_primary("pg3")
    assert not drain.take_primary("pg3"), "pgpool-II starts it once"


def test_a_slot_that_cannot_be_dropped_does_not_fail_the_second_stage(pg1: StageNode) -> None:
    pg1.server.rows |= {**POSITION, "pg_drop_replication_slot": psycopg2.OperationalError("it is active")}
    main_node.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.here.under_way.drain.take_primary("pg3")


@pytest.mark.parametrize("broken", [NoteRequest, TakeUpRequest])
def test_the_target_gets_the_reason_of_a_second_stage_that_fails(broken: type[object], pg1: StageNode) -> None:
    pg1.server.rows |= POSITION
    draining(pg1)
    pg1.answers[broken] = ServerError("pg3 is unreachable", hint="")
    with pytest.raises(ServerError, match="pg3 is unreachable"):
        main_node.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.asked[-1] == ("pg3", WhyRequest("pg3 is unreachable"))
    assert pg1.here.under_way.drain.archive_from == ""
    assert not pg1.here.under_way.drain.take_primary("pg3")
    assert not [sql for sql in pg1.server.sent if "pg_drop_replication_slot" in sql], "its next copy needs the slot"


def test_a_pgpool_that_has_not_joined_fails_the_second_stage_although_the_target_is_gone(pg1: StageNode) -> None:
    pg1.outsider = OperationError("pgpool-II of pg2 has not joined", hint="")
    pg1.answers[WhyRequest] = ServerError("pg3 is unreachable", hint="")
    with pytest.raises(OperationError, match="pg2 has not joined"):
        main_node.second_stage(pg1.here, "pg3", pg1.say)
    assert pg1.joined == [1.0], "clients wait, so it waits for 1 s only"
    assert pg1.server.sent == []


def test_sequences_that_cannot_be_written_fail_the_second_stage(pg1: StageNode) -> None:
    pg1.server.rows |= {**POSITION, "relkind = 'S'": psycopg2.OperationalError("permission denied\n")}
    with pytest.raises(OperationError, match="sequences of app: permission denied"):
        main_node.second_stage(pg1.here, "pg3", pg1.say)
    assert not [request for _, request in pg1.asked if isinstance(request, TakeUpRequest)]
