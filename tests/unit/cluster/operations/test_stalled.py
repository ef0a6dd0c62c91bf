"""A connected standby that makes no progress gets no reads and is not healthy, whatever the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.nodes import (
    CLUSTER,
    FORK,
    NAMES,
    Situation,
    away,
    healthy,
    orphaned,
    pgpool,
    primary,
    seen,
    standby,
    unwatched,
)

from pgpool_cluster.copying import adopting, copy_source
from pgpool_cluster.decision.actions import Detach, Promote, Refuse, Wait
from pgpool_cluster.decision.decide import confirmed, decide
from pgpool_cluster.decision.facts import matching, replay
from pgpool_cluster.decision.facts.facts import ClusterFacts, Lsn, NodeFacts
from pgpool_cluster.decision.facts.replay import PAUSED, StandbyReport, Watch
from pgpool_cluster.decision.promotion import choose_new_primary, failover
from pgpool_cluster.decision.recovery_plan import refuse_needless
from pgpool_cluster.decision.reports import status
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import restarts, switchover
from pgpool_cluster.operations.succession import claims, new_primary
from pgpool_cluster.postgresql import local_server
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.postgresql.database import Database
from pgpool_cluster.transport.peers import Peers

# A standby's report about itself

SETTINGS = {
    "max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 16, "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64, "max_standby_streaming_delay": 30000, "recovery_min_apply_delay": 0,
    "wal_receiver_timeout": 10000,
}  # fmt: skip
AT = Lsn(100_000)
CAUGHT_UP = StandbyReport(
    False, AT, "12:00", False, SETTINGS, received=AT, replayed=AT, primary="host=pg1", connected=True
)
BEHIND = replace(CAUGHT_UP, sent=Lsn(100_400), received=Lsn(100_400))


def after(one: StandbyReport, seconds: float) -> tuple[bool, str]:
    """Return whether a standby streams, and why it is stalled, after it has reported `one` for `seconds`."""
    watch, began = Watch(), 1000.0
    watch.stalled(one, began)
    if one.connected and one.heard is not None:  # a message arrived a moment ago
        one = replace(one, heard="later")
    watch.stalled(one, began + seconds - 0.5)
    return watch.hears(one, began + seconds), watch.stalled(one, began + seconds)


@pytest.mark.parametrize(
    ("one", "moves_at", "stalled_at"),
    [
        (CAUGHT_UP, 3600, None),
        (BEHIND, 9.9, 10.5),
        (replace(BEHIND, received=AT), 9.9, 10.5),  # known to be sent but not written yet
        (replace(BEHIND, conflict=True), 39.9, 40.5),
        (replace(BEHIND, conflict=True, settings={**SETTINGS, "max_standby_streaming_delay": -1}), 39.9, 40.5),
        (replace(BEHIND, settings={**SETTINGS, "recovery_min_apply_delay": 60000}), 69.9, 70.5),
        (replace(BEHIND, sent=Lsn(8192 * 20), received=Lsn(8192 * 20)), 29.9, 30.5),  # possibly an incomplete record
        (replace(CAUGHT_UP, connected=False, heard=None, sent=None), 29.9, 30.5),
        (replace(CAUGHT_UP, paused=True), None, 0.5),
    ],
)  # fmt: skip
def test_replay_without_progress_while_there_is_wal_is_stalled(
    one: StandbyReport, moves_at: float | None, stalled_at: float | None
) -> None:
    if moves_at is not None:
        assert after(one, moves_at)[1] == ""
    if stalled_at is not None:
        assert after(one, stalled_at)[1] != ""


def test_wal_after_an_idle_hour_gets_the_full_time() -> None:
    watch = Watch()
    assert watch.stalled(CAUGHT_UP, 0.0) == ""
    assert watch.stalled(replace(BEHIND, heard="13:00"), 3600.0) == ""
    assert watch.stalled(replace(BEHIND, heard="13:01"), 3609.0) == ""
    assert watch.stalled(replace(BEHIND, heard="13:02"), 3611.0) == (
        "it has replayed none of the received WAL for 10 s"
    )
    assert watch.stalled(replace(BEHIND, heard="13:03", replayed=Lsn(100_040)), 3612.0) == ""


@pytest.mark.parametrize(("timeout", "limit"), [(10000, 15.0), (60000, 90.0), (1000, 15.0), (0, None)])
def test_a_walreceiver_streams_while_it_receives_messages_of_the_primary(timeout: int, limit: float | None) -> None:
    """A stopped one reports `streaming` without end. An idle primary must send a message within the timeout."""
    one, watch = replace(CAUGHT_UP, settings={**SETTINGS, "wal_receiver_timeout": timeout}), Watch()
    assert watch.hears(one, 0.0)
    assert watch.hears(one, (limit or 1e6) - 0.1)
    if limit is not None:
        assert not watch.hears(one, limit + 0.1)
        assert "has received nothing from the primary" in watch.stalled(one, limit + 0.1)
        assert watch.hears(replace(one, heard="at last"), limit + 0.2)


def test_a_new_primary_gets_the_full_time() -> None:
    lost, watch = replace(CAUGHT_UP, connected=False, heard=None), Watch()
    assert watch.stalled(lost, 0.0) == ""
    assert watch.stalled(lost, 31.0) != ""
    assert watch.stalled(replace(lost, primary="host=pg2"), 32.0) == ""


ROW: tuple[object, ...] = (
    True, SETTINGS, 1, "0/40160B8", "0/40000A0", "host=10.0.0.1", True, ["s"], [], 0, "", True,
    False, "0/40160B8", "2026-01-01 00:00:00+00", False, SETTINGS,
)  # fmt: skip


@pytest.fixture
def looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Collect facts from a stand-in that answers with a row."""
    (tmp_path / "PG_VERSION").write_text("15\n")
    (tmp_path / "pg_wal").mkdir()
    asked: list[str] = []
    databases: dict[int, Database] = {}

    def look(*, major: int = 15, low: int = 100, **changes: object) -> NodeFacts:
        names = {"streaming": 6, "paused": 12, "heard": 14}
        row = list(ROW)
        row[1] = 7000
        for name, value in changes.items():
            row[names[name]] = value

        def query(_: local_server.KeptConnection, sql: str, *__: object) -> list[tuple[object, ...]]:
            asked.append(sql)
            return [tuple(row)]

        control = {label: str(SETTINGS[name]) for name, label in matching.CONTROL.items()}
        control["max_connections setting"] = str(low)
        monkeypatch.setattr(pg, "control_data", lambda _: control)
        monkeypatch.setattr(local_server.KeptConnection, "query", query)
        instance = Instance(PostgresqlCluster(major, "main"), 5432, tmp_path)
        return databases.setdefault(major, Database(instance)).look(NodeFacts("pg2"), CLUSTER)

    look.asked = asked  # type: ignore[attr-defined]
    return look


def test_facts_show_paused_replay_in_every_major(looked: Any) -> None:
    found = looked()
    assert (found.streaming, found.stalled, found.follows) == (True, "", "pg1")
    assert found.settings == {name: SETTINGS[name] for name in matching.CONTROL}
    assert looked(paused=True).stalled == PAUSED
    assert "pg_get_wal_replay_pause_state() <> 'not paused'" in looked.asked[-1]
    assert looked(major=13, paused=True).stalled == PAUSED
    assert "pg_is_wal_replay_paused()" in looked.asked[-1]
    assert "pause_state" not in looked.asked[-1]


def test_facts_name_the_parameter_that_paused_replay(looked: Any) -> None:
    found = looked(paused=True, low=404)
    assert found.needs == {"max_connections": 404}
    assert found.stalled == "max_connections is 100 on pg2, and 404 is needed"
    assert "postgresql_conf: {max_connections: 404}" in replay.hint(found)
    assert not looked(paused=False, low=404).needs


def test_facts_do_not_trust_the_walreceivers_status(looked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pgpool_cluster.postgresql.database.time.monotonic", lambda: now[0])
    assert looked().streaming
    now[0] += 16
    assert not looked().streaming
    assert looked(heard="2026-01-01 00:00:16+00").streaming


def test_a_standby_that_a_parameter_keeps_from_starting_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance(PostgresqlCluster(15, "main"), 5432, tmp_path)
    monkeypatch.setattr(pg, "configured", lambda _: {"max_connections": 40})
    monkeypatch.setattr(pg, "control_data", lambda _: {"max_connections setting": "60"})
    assert "journalctl" in pg._start_hint(instance)  # a primary starts with its present values
    (tmp_path / "standby.signal").touch()
    assert "postgresql_conf: {max_connections: 60}" in pg._start_hint(instance)


# Decisions

STILL = "it has replayed none of the received WAL for 10 s"
LOW = {"settings": {"max_connections": 100}, "needs": {"max_connections": 404}}


def with_stalled(reason: str = PAUSED, *down: str, **changes: object) -> tuple[NodeFacts, ...]:
    """A healthy cluster except for pg2, which does not replay. `down`: the nodes that each pgpool-II has detached."""
    first, second, third = (replace(one, pgpool=unwatched(*down)) for one in healthy())
    return first, replace(second, stalled=reason, **changes), third  # type: ignore[arg-type]


SITUATIONS = [
    Situation(
        "every pgpool-II sends a paused standby no reads", with_stalled(),
        {"pg1": ["Detach"], "pg2": ["Wait", "Detach"], "pg3": ["Detach"]},
    ),
    Situation("a standby without progress gets no reads", with_stalled(STILL), {"pg1": ["Detach"], "pg3": ["Detach"]}),
    Situation(
        "a standby whose walreceiver is stuck gets no reads", with_stalled("silent", streaming=False),
        {"pg1": ["Detach"], "pg2": ["Wait", "Detach"]},
    ),
    Situation("a detached standby is not attached while it is stalled", with_stalled(STILL, "pg2"), {"pg1": []}),
    Situation("a standby that moves again is attached", with_stalled("", "pg2"), {name: ["Attach"] for name in NAMES}),
    Situation(
        "a stalled standby of the former primary follows the new one first",
        (away("pg1"), replace(primary("pg2", term=2, timeline=2, at=1500), history=FORK, pgpool=pgpool("pg1")),
         replace(orphaned(standby("pg3", "pg1", term=2)), stalled="it has not received anything for 30 s")),
        {"pg2": [], "pg3": ["Follow"]},
    ),
]  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.story)
def test_each_node_does_the_right_thing(situation: Situation) -> None:
    assert situation.done == situation.wanted


def test_the_reason_is_given_and_a_second_decision_has_to_agree() -> None:
    facts = seen(*with_stalled(STILL))
    detached = decide(CLUSTER, CLUSTER.named("pg1"), facts)
    assert detached == (Detach("pg2", STILL),)
    assert confirmed(detached, lambda: decide(CLUSTER, CLUSTER.named("pg1"), seen(*with_stalled("")))) == ()
    waits, *_ = decide(CLUSTER, CLUSTER.named("pg2"), seen(*with_stalled()))
    assert isinstance(waits, Wait)
    assert waits.reason.startswith(PAUSED)
    assert "hint: on pg2, as postgres: psql -c 'SELECT pg_wal_replay_resume()'" in waits.reason


LOST = orphaned(standby("pg2", "pg1", at=2000)), orphaned(standby("pg3", "pg1", at=1500))


def test_the_most_advanced_standby_takes_over_even_if_its_replay_is_paused() -> None:
    """Its promotion ends the pause and replays all WAL; the other standby may lack a commit."""
    facts = seen(away("pg1"), replace(LOST[0], stalled=PAUSED), LOST[1])
    assert failover(CLUSTER, CLUSTER.named("pg1"), facts)[0] == Promote("pg2", 2)


def test_a_standby_that_promotion_would_crash_is_not_promoted_nor_is_one_with_less_wal() -> None:
    facts = seen(away("pg1"), replace(LOST[0], stalled="low", **LOW), LOST[1])  # type: ignore[arg-type]
    (refused,) = failover(CLUSTER, CLUSTER.named("pg1"), facts)
    assert isinstance(refused, Refuse)
    assert (refused.node, "max_connections is 100 on pg2, and 404 is needed" in refused.reason) == ("pg2", True)
    assert "postgresql_conf: {max_connections: 404}" in refused.hint


def test_among_equals_a_standby_that_replays_takes_over() -> None:
    both = replace(LOST[0], stalled="low", **LOW), replace(LOST[1], position=LOST[0].position)  # type: ignore[arg-type]
    assert failover(CLUSTER, CLUSTER.named("pg1"), seen(away("pg1"), *both))[0] == Promote("pg3", 2)
    best = choose_new_primary(CLUSTER, seen(away("pg1"), *both))
    assert best is not None
    assert best.node == "pg3"


def test_a_node_does_not_promote_itself_if_that_would_crash_it(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: list[int] = []
    monkeypatch.setattr(claims, "claim", lambda _, term: claimed.append(term))
    monkeypatch.setattr(Here, "query", lambda *_: [(True,)])
    monkeypatch.setattr(Here, "look", lambda _: replace(LOST[0], **LOW))  # type: ignore[arg-type]
    here = Here(CLUSTER, CLUSTER.named("pg2"), None, Peers({}), Record(term=1))
    with pytest.raises(OperationError, match="max_connections is 100 on pg2, and 404 is needed"):
        new_primary.become_primary(here, 2)
    assert not claimed
    (event,) = here.history.recent(9)[0]
    assert (event.kind, event.what) == ("promote", "promote pg2 term 2")
    assert "404 is needed" in event.failed


# Reports


@pytest.mark.parametrize("reason", [PAUSED, STILL])
def test_a_cluster_with_a_stalled_standby_is_not_healthy_and_names_it(reason: str) -> None:
    facts = seen(*with_stalled(reason))
    found = status.report(CLUSTER, facts, {})
    assert found.healthy is False
    assert [row.stalled for row in found.nodes] == ["", reason, ""]
    assert found.notes["pg2"].startswith(f"{reason}; hint: ")
    assert status.healthy(CLUSTER, seen(*healthy()))


def test_recover_says_that_a_copy_would_not_help() -> None:
    with pytest.raises(OperationError, match="pg2 has its data, but does not replay: its replay is paused"):
        refuse_needless(CLUSTER, seen(*with_stalled()), with_stalled()[0], "pg2")


# Parameters that a standby must match


def cluster_with(**connections: int) -> ClusterFacts:
    return seen(*(replace(one, settings={"max_connections": connections[one.node]}) for one in healthy()))


def test_a_switchover_to_a_node_that_the_others_could_not_follow_is_refused() -> None:
    with pytest.raises(OperationError, match=r"pg3 has max_connections = 100, and pg2 runs with 404") as caught:
        switchover.choose(CLUSTER, cluster_with(pg1=100, pg2=404, pg3=100), "pg2")
    assert "postgresql_conf: {max_connections: 404}" in caught.value.hint
    assert "on pg3: systemctl restart postgresql" in caught.value.hint
    primary_, target = switchover.choose(CLUSTER, cluster_with(pg1=404, pg2=404, pg3=404), "pg2")
    assert (primary_.node, target.node) == ("pg1", "pg2")
    assert switchover.choose(CLUSTER, cluster_with(pg1=404, pg2=100, pg3=404), "pg2")[1].node == "pg2"
    assert switchover.choose(CLUSTER, seen(*healthy()), "pg2")[1].node == "pg2"  # an older node does not report it


def test_a_switchover_to_a_node_that_does_not_replay_is_refused() -> None:
    with pytest.raises(OperationError, match="pg2 does not replay: its replay is paused"):
        switchover.choose(CLUSTER, seen(*with_stalled()), "pg2")


def test_a_switchover_is_refused_if_the_present_primary_would_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configured value counts, because it will be restarted."""
    target = replace(healthy()[1], settings={"max_connections": 404})
    monkeypatch.setattr(pg, "configured", lambda _: {"max_connections": 100})
    monkeypatch.setattr(pg, "stop", lambda _: pytest.fail("it was stopped"))
    monkeypatch.setattr(Here, "query", lambda *_: pytest.fail("it was touched"))
    here: Any = SimpleNamespace(me=CLUSTER.named("pg1"), server=SimpleNamespace(instance=None))
    with pytest.raises(OperationError, match="pg1 would start with max_connections = 100, and pg2 runs with 404"):
        switchover.run(here, target, print)


def _of(processes: int, file: str = "/etc/postgresql/x.conf") -> adopting.Source:
    return adopting.Source.of([("max_worker_processes", str(processes), file)])


def test_a_copy_that_would_not_start_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg, "configured", lambda *_, **__: {"max_worker_processes": 8, "max_connections": 100})
    here: Any = SimpleNamespace(server=SimpleNamespace(instance=None))
    source = CLUSTER.named("pg1")
    copy_source._check_settings(here, source, _of(8))
    copy_source._check_settings(here, source, _of(32, "/srv/data/postgresql.auto.conf"))
    with pytest.raises(OperationError, match="max_worker_processes = 32 there, 8 here") as caught:
        copy_source._check_settings(here, source, _of(32))
    assert "postgresql_conf: {max_worker_processes: 32}" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_connections": (100, 404)}, "the standbys first, then the primary"),
        ({"max_connections": (404, 100)}, "the primary first, then the standbys"),
        ({"max_connections": (404, 100), "max_wal_senders": (10, 16)}, "no order suits both"),
        ({}, "the standbys first, then the primary"),
    ],
)
def test_the_order_of_restarts_follows_from_the_change(changes: dict[str, tuple[int, int]], said: str) -> None:
    waiting = restarts.Waiting(("max_connections", "shared_buffers"), changes, "postgresql@15-main.service")
    assert said in str(waiting)
    assert said in waiting.fix
    assert "systemctl restart postgresql@15-main.service" in waiting.fix
    assert "node by node" in str(replace(waiting, streams=False))


def test_pending_restarts_show_old_and_new_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg, "configured", lambda *_: {"max_connections": 404, "max_wal_senders": 16})
    mine = replace(healthy()[0], settings={"max_connections": 100, "max_wal_senders": 16})
    here: Any = SimpleNamespace(
        server=SimpleNamespace(instance=SimpleNamespace(unit="postgresql@15-main.service")), cluster=CLUSTER,
        look=lambda: mine, query=lambda *_: [("shared_buffers",)],
    )  # fmt: skip
    assert str(restarts.waiting(here)) == (
        "PostgreSQL needs a restart for max_connections (100 to 404), shared_buffers: "
        "pgpoolctl restart --pending on one node; by hand on each node: systemctl restart postgresql@15-main.service; "
        "max_connections grows: the standbys first, then the primary; otherwise they stop replaying"
    )
