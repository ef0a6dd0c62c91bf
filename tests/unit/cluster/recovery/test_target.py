"""The stages of a recovery on the target: its data, its replay, its deadlines, and its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.nodes import NATIVE, away, pgpool, primary, seen
from tests.unit.cluster.stage_node import StageNode

from pgpool_cluster.copying import copying
from pgpool_cluster.decision.facts.facts import ClusterFacts, NodeFacts
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.node.node import Here
from pgpool_cluster.recovery import target


@pytest.fixture
def pg3(monkeypatch: pytest.MonkeyPatch) -> StageNode:
    """The node that is rebuilt."""
    return StageNode("pg3", monkeypatch)


# The first stage, on the target


class Clone:
    """A stand-in for `copying.clone`."""

    def __init__(self, node: StageNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node, self.ran, self.fails = node, list[tuple[object, ...]](), False
        monkeypatch.setattr(copying, "clone", self._clone)

    def _clone(self, here: Here, source: str, report: Callable[[str], None], *, member: bool) -> None:
        self.ran.append((source, member, here.record.led, here.record.held, here.under_way.promoting))
        report("half")
        if self.fails:
            raise OperationError("no space", hint="")


@pytest.fixture
def clone(pg3: StageNode, monkeypatch: pytest.MonkeyPatch) -> Clone:
    return Clone(pg3, monkeypatch)


def overdue_after(node: StageNode) -> float:
    """Return the seconds after which a recovery that is under way is given up."""
    rebuilding, began = node.here.under_way.rebuilding, node.clock.now
    assert rebuilding.under_way
    while not rebuilding.overdue:
        node.clock.now += 1
    return node.clock.now - began - 1


def test_the_target_is_out_of_service_while_it_is_copied_and_awaits_the_second_stage(
    pg3: StageNode, clone: Clone
) -> None:
    requester: list[str] = []
    pg3.here.under_way.rebuilding.begin(requester.append)
    pg3.here.remember(held=True)
    target.copy(pg3.here, "pg1", pg3.say)
    assert clone.ran == [("pg1", False, 0, False, True)]
    assert pg3.said == requester == ["half", "waiting for sessions to end; new clients wait"]
    assert pg3.joined == [None, 600.0], "before the copy, and longer after it"
    assert overdue_after(pg3) == NATIVE.recovery_timeout + 30


def test_a_target_whose_copy_fails_awaits_nothing(pg3: StageNode, clone: Clone) -> None:
    clone.fails = True
    with pytest.raises(OperationError, match="no space"):
        target.copy(pg3.here, "pg1", pg3.say)
    rebuilding = pg3.here.under_way.rebuilding
    assert (rebuilding.under_way, rebuilding.failure, rebuilding.overdue) == (False, "no space", False)
    assert pg3.said == ["half"], "no requester was there"


# The second stage, on the target


DONE = {"pg_last_wal_replay_lsn": [("0/3000060", True)], "pg_promote": [(True,)], "system_identifier": [(7001,)]}


def test_the_target_becomes_a_primary_and_awaits_its_attachment(pg3: StageNode) -> None:
    pg3.server.rows |= DONE
    pg3.here.remember(copying="pg1", term=2)
    target.take_up(pg3.here, "pg1", "0/3000060", 5, pg3.say)
    sent = [sql.split(",")[0] for sql in pg3.server.sent[1:]]
    assert sent == [
        "ALTER SYSTEM SET restore_command = ''", "SELECT pg_reload_conf()", "SELECT pg_promote(true",
        "ALTER SYSTEM RESET primary_conninfo", "ALTER SYSTEM RESET primary_slot_name",
        "ALTER SYSTEM RESET restore_command", "SELECT pg_reload_conf()",
        "SELECT system_identifier FROM pg_control_system()",
    ]  # fmt: skip
    record = pg3.here.record
    assert (record.system, record.copying, record.term) == (7001, "", 5)
    assert overdue_after(pg3) == NATIVE.recovery_timeout + 30


def test_a_term_that_the_target_knows_already_is_kept(pg3: StageNode) -> None:
    pg3.server.rows |= DONE
    pg3.here.remember(term=9)
    target.take_up(pg3.here, "pg1", "0/3000060", 5, pg3.say)
    assert pg3.here.record.term == 9


def test_a_target_that_cannot_be_promoted_stays_half_a_copy(pg3: StageNode) -> None:
    pg3.server.rows |= {**DONE, "pg_promote": [(False,)]}
    pg3.here.remember(copying="pg1")
    with pytest.raises(OperationError, match="PostgreSQL did not end its recovery"):
        target.take_up(pg3.here, "pg1", "0/3000060", 5, pg3.say)
    rebuilding = pg3.here.under_way.rebuilding
    assert (rebuilding.under_way, rebuilding.failure) == (False, "PostgreSQL did not end its recovery")
    assert pg3.here.record.copying == "pg1"


def replaying(node: StageNode, position: Callable[[float], float], end: float) -> None:
    """Let the server replay up to `position` at each second, and be done at `end`."""

    def row() -> list[tuple[str, bool]]:
        place = position(node.clock.now - 1000)
        return [(f"0/{int(place):X}", place >= end)]

    node.server.rows["pg_last_wal_replay_lsn"] = row


def test_a_replay_that_makes_progress_may_take_long(pg3: StageNode) -> None:
    replaying(pg3, lambda seconds: 100 * seconds, 2000)
    target._replay(pg3.here, "pg1", "0/7D0", pg3.say)
    assert 20 <= pg3.clock.now - 1000 < 21
    assert pg3.server.sent == [target._REPLAYED] * len(pg3.server.sent), "it goes on streaming"
    assert len(pg3.said) in (18, 19)
    assert pg3.said[0].endswith("to 0/7D0")


def test_the_archive_is_read_if_the_stream_stands_still_for_1_s(pg3: StageNode) -> None:
    replaying(pg3, lambda seconds: 0 if seconds < 2 else 100, 100)
    target._replay(pg3.here, "pg1", "0/64", pg3.say)
    sent = [sql for sql in pg3.server.sent if sql != target._REPLAYED]
    assert sent == ["ALTER SYSTEM SET primary_conninfo = ''", "ALTER SYSTEM RESET restore_command",
                    "SELECT pg_reload_conf()"]  # fmt: skip
    assert "pg1 does not stream: reading the remaining WAL from its archive" in pg3.said


def test_a_replay_that_stands_still_is_given_up_after_5_s(pg3: StageNode) -> None:
    """Clients wait for it: 1 s for the stream, and 4 s for the archive."""
    replaying(pg3, lambda _: 0, 100)
    with pytest.raises(OperationError, match="the last changes of pg1 did not arrive"):
        target._replay(pg3.here, "pg1", "0/64", pg3.say)
    assert 5 <= pg3.clock.now - 1000 < 5.2


# The end of a recovery


IN = replace(primary("pg3"), led=0)


@pytest.fixture
def rebuilt(pg3: StageNode) -> StageNode:
    """pg3 as a primary that awaits its attachment."""
    with pg3.here.under_way.rebuilding.stage(60):
        pass
    pg3.here.remember(led=0, term=3, apart=True)
    leading = replace(primary("pg1", term=4, led=4), pgpool=pgpool(), restart=2)
    pg3.rounds = [seen(leading, primary("pg2", term=4, led=4), replace(IN, term=3))]
    return pg3


def test_a_rebuilt_node_is_in_service_in_the_term_of_the_main_node_once_it_is_attached(rebuilt: StageNode) -> None:
    target.attend(rebuilt.here)
    record = rebuilt.here.record
    assert (record.led, record.term, record.restart, record.apart) == (4, 4, 2, False)
    assert not rebuilt.here.under_way.promoting


def test_a_rebuilt_node_has_every_write_although_the_main_node_is_gone(rebuilt: StageNode) -> None:
    leading = NodeFacts("pg1", pgpool=pgpool())
    rebuilt.rounds = [seen(leading, away("pg2"), replace(IN, term=3))]
    target.attend(rebuilt.here)
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
def test_until_then_a_rebuilt_node_is_not_in_service(break_: Callable[[StageNode], object], rebuilt: StageNode) -> None:
    break_(rebuilt)
    target.attend(rebuilt.here)
    assert (rebuilt.here.record.led, rebuilt.here.under_way.promoting) == (0, True)


def _change(node: StageNode, name: str, **changes: Any) -> None:
    facts = node.rounds[0]
    node.rounds = [ClusterFacts({**facts.nodes, name: replace(facts.of(name), **changes)})]
