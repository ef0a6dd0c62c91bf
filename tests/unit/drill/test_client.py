"""The drill's clients record every transaction once, with its outcome, and their lines are a history."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.drill.client import APPEND, EACH, INSERT, QUERY, READ, Client, Specification
from tests.drill.operations import FAILED, OK, UNKNOWN, Operation, line, parse


class DriverError(Exception):
    def __init__(self, message: str, pgcode: str | None = None) -> None:
        super().__init__(message)
        self.pgcode = pgcode


@dataclass
class Server:
    """A server that refuses the connections and statements whose numbers are in `faults`."""

    faults: dict[str, Exception] = field(default_factory=dict)
    connects: int = 0
    closed: int = 0
    statements: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    autocommit: bool = False

    def connect(self, _dsn: str) -> Server:
        self.connects += 1
        if error := self.faults.get(f"connect {self.connects}"):
            raise error
        return self

    def cursor(self) -> Server:
        return self

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, statement: str, values: tuple[Any, ...]) -> None:
        self.statements.append((statement, values))
        if error := self.faults.get(f"statement {len(self.statements)}"):
            raise error

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def close(self) -> None:
        self.closed += 1


def client(server: Server, role: str = "write", **others: Any) -> Client:
    given = Specification("one", 3, role, "host=nowhere", **others)
    return Client(given, server.connect, DriverError, io.StringIO())


def history(made: Client) -> tuple[Operation, ...]:
    assert isinstance(made.output, io.StringIO)
    return parse(made.output.getvalue().splitlines())


def test_a_kept_session_is_used_again_and_a_short_one_is_not() -> None:
    kept, short = Server(), Server()
    for server, keep in ((kept, True), (short, False)):
        made = client(server, kept=keep)
        assert [made.transaction() for _ in range(3)] == [True, True, True]
        assert [row.appends for row in history(made)] == [{"one": 1}, {"one": 2}, {"one": 3}]
        assert [row.outcome for row in history(made)] == [OK] * 3
        assert server.autocommit
        assert server.statements[0] == (INSERT, ("one", 1))
    assert (kept.connects, kept.closed) == (1, 0)
    assert (short.connects, short.closed) == (3, 3)


@pytest.mark.parametrize(
    ("fault", "error", "outcome", "state"),
    [
        ("connect 1", DriverError("could not connect\nIs the server running?"), FAILED, ""),
        ("statement 1", DriverError("server closed the connection"), UNKNOWN, ""),
        ("statement 1", DriverError("terminating connection", "57P01"), UNKNOWN, "57P01"),
        ("statement 1", DriverError("cannot execute INSERT in a read-only transaction", "25006"), FAILED, "25006"),
    ],
    ids=("refused", "cut", "terminated", "read-only"),
)
def test_an_error_is_recorded_with_its_outcome_and_ends_the_session(
    fault: str, error: Exception, outcome: str, state: str
) -> None:
    server = Server({fault: error})
    made = client(server)
    assert [made.transaction(), made.transaction()] == [False, True]
    first, second = history(made)
    assert (first.outcome, first.sqlstate, first.error) == (outcome, state, str(error).splitlines()[0])
    assert (first.session, second.session, second.outcome) == (1, 2, OK)
    assert first.began <= first.ended <= second.began
    assert server.connects == 2


def test_an_append_has_a_value_of_its_own() -> None:
    server = Server()
    made = client(server, "append", lists=2)
    for _ in range(20):
        made.transaction()
    values = [value for row in history(made) for value in row.appends.values()]
    assert values == [3 * EACH + number for number in range(1, 21)]
    assert {name for row in history(made) for name in row.appends} == {"0", "1"}
    assert {statement for statement, _ in server.statements} == {APPEND}


def test_a_read_records_the_lists_and_the_node() -> None:
    server = Server(rows=[("198.18.0.10", "on", "0", [1, 2]), ("198.18.0.10", "on", "4", [])])
    made = client(server, "read")
    made.transaction()
    (row,) = history(made)
    assert (row.reads, row.node, row.standby) == ({"0": (1, 2), "4": ()}, "198.18.0.10", True)
    statement, (names,) = server.statements[0]
    assert statement == READ
    assert len(set(names)) == 3


def test_a_session_that_reads_its_own_writes_reads_the_list_that_it_appended_to() -> None:
    server = Server()
    made = client(server, "own")
    for _ in range(20):
        made.transaction()
    pairs = zip(server.statements[::2], server.statements[1::2], strict=True)
    for (append, (_, name)), (read, (names,)) in pairs:
        assert (append, read) == (APPEND, READ)
        assert name in names
        assert len(set(names)) == 3


def test_a_query_records_the_node_that_answered() -> None:
    server = Server(rows=[("198.18.0.10",)])
    made = client(server, "query")
    made.transaction()
    assert (server.statements, history(made)[0].node) == ([(QUERY, ())], "198.18.0.10")


def test_a_transaction_without_an_answer_is_recorded_once() -> None:
    asked, answered = threading.Event(), threading.Event()

    class Silent(Server):
        def execute(self, statement: str, values: tuple[Any, ...]) -> None:
            asked.set()
            answered.wait(10)

    made = client(Silent())
    thread = threading.Thread(target=made.transaction)
    thread.start()
    assert asked.wait(10)
    made.abandon()
    answered.set()
    thread.join(10)
    made.abandon()
    (row,) = history(made)
    assert (row.outcome, row.error) == (UNKNOWN, "no answer")


def test_a_client_runs_until_the_end() -> None:
    ended = threading.Event()
    made = client(Server(), pace=0.001)
    thread = threading.Thread(target=made.run, args=(ended,))
    thread.start()
    while made.counted < 5:
        time.sleep(0.001)
    ended.set()
    thread.join(10)
    assert len(history(made)) == made.counted


def test_lines_of_a_history_are_read_back_in_the_order_of_time() -> None:
    read = Operation("b", 2, 2.0, 2.1, UNKNOWN, {}, {"0": (1, 2)}, "198.18.0.10", True, "57P01", "gone")
    append = Operation("a", 1, 1.0, 1.1, appends={"0": 1})
    assert parse([line(read), line(append), '{"client": "half a li']) == (append, read)
    assert "append 1 to 0" in str(append)
    assert "57P01: gone" in str(read)
