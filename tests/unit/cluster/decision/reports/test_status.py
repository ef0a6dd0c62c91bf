"""The report of `pgpoolctl status` for given facts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pgpool_cluster.decision.facts.diverged_report import DivergedReport
from pgpool_cluster.decision.facts.facts import (
    BackendState,
    ClusterFacts,
    Lsn,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    WatchdogState,
)
from pgpool_cluster.decision.facts.pause import Pause
from pgpool_cluster.decision.liveness.links import Link, LinkState
from pgpool_cluster.decision.reports import status
from pgpool_cluster.decision.reports.events import Event
from pgpool_cluster.decision.reports.report import ArchiveReport, Report
from pgpool_cluster.definition.cluster import Cluster, Mode
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.usage import Usage
from pgpool_cluster.transport import wire

CLUSTER: Cluster = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2, pg3: 10.0.0.3}", "cluster.yml", "pg1")
NATIVE = replace(CLUSTER, mode=Mode.NATIVE_REPLICATION, synchronous=0)
UP = dict.fromkeys(("pg1", "pg2", "pg3"), BackendState.UP)


def node(name: str, watchdog: WatchdogState, **changes: object) -> NodeFacts:
    standby = name != "pg1"
    facts = NodeFacts(
        name, postgresql=Postgresql.UP, member=True, term=1, led=0 if standby else 1, system=7, in_recovery=standby,
        timeline=1, position=Lsn(1000), replayed=Lsn(900) if standby else None, follows="pg1" if standby else None,
        streaming=standby, pgpool=PgpoolFacts(watchdog, True, UP, "pg1"),
    )  # fmt: skip
    return replace(facts, **changes)  # type: ignore[arg-type]


def facts(**changes: dict[str, object]) -> ClusterFacts:
    alone = WatchdogState.ALONE
    return ClusterFacts({name: node(name, alone, **changes.get(name, {})) for name in UP})


def native(**changes: dict[str, object]) -> ClusterFacts:
    """The facts of a healthy cluster in which every node is a primary, and the pgpool-IIs have a watchdog."""
    states = {"pg1": WatchdogState.LEADER, "pg2": WatchdogState.STANDBY, "pg3": WatchdogState.STANDBY}
    primary: dict[str, object] = {"led": 1, "in_recovery": False, "follows": None, "streaming": False, "replayed": None}
    return ClusterFacts({name: node(name, state, **primary, **changes.get(name, {})) for name, state in states.items()})


def test_a_healthy_cluster() -> None:
    found = status.report(CLUSTER, facts(), {})
    assert found.healthy is True
    assert [(row.name, row.id, row.role, row.lag_bytes) for row in found.nodes] == [
        ("pg1", 0, "primary", 0), ("pg2", 1, "standby", 100), ("pg3", 2, "standby", 100),
    ]  # fmt: skip
    assert {row.name: row.state for row in found.pgpools} == {
        "pg1": "leader", "pg2": "standby", "pg3": "standby",
    }  # fmt: skip
    assert not found.notes


def test_links_are_those_of_the_answering_node_and_do_not_affect_health() -> None:
    links = {"pg2": Link("pg2", LinkState.LOST, 1.0), "pg3": Link("pg3", LinkState.UNSUPPORTED, 1.0)}
    found = status.report(CLUSTER, facts(), {}, links)
    assert [row.link for row in found.nodes] == [None, "lost", "unsupported"]
    assert [row.link for row in found.pgpools] == [None, "lost", "unsupported"]
    assert found.healthy
    text = [line for line in status.lines(found) if "link" in line]
    assert text == ["pg2: its link with this node is lost: heartbeats do not arrive in both directions"]


DOWN = PgpoolFacts(WatchdogState.ALONE, True, {**UP, "pg3": BackendState.DOWN}, "pg1")
LED = PgpoolFacts(WatchdogState.LEADER, True, UP)


@pytest.mark.parametrize(
    "changes",
    [
        {"pg2": {"reachable": False}},
        {"pg2": {"streaming": False}},
        {"pg2": {"follows": "pg3"}},
        {"pg2": {"half_copied": True}},
        {"pg2": {"member": False}},
        {"pg2": {"postgresql": Postgresql.DOWN}},
        {"pg2": {"in_recovery": False, "timeline": 1}},
        {"pg2": {"pgpool": None}},
        {"pg2": {"pgpool": DOWN}},
        {"pg2": {"pgpool": replace(DOWN, backends=UP, primary="pg3")}},
        {"pg2": {"pgpool": replace(DOWN, backends=UP, primary=None)}},
        {"pg1": {"term": 2}},
    ],
    ids=str,
)
def test_one_fault_makes_the_cluster_unhealthy(changes: dict[str, dict[str, object]]) -> None:
    assert not status.healthy(CLUSTER, facts(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"pg1": {"pgpool": replace(LED, watchdog=WatchdogState.STANDBY)}},
        {"pg1": {"pgpool": replace(LED, quorum=False)}},
        {"pg2": {"pgpool": LED}},
        {"pg3": {"pgpool": replace(LED, watchdog=WatchdogState.OTHER)}},
        {"pg3": {"pgpool": replace(DOWN, watchdog=WatchdogState.STANDBY)}},
    ],
    ids=str,
)
def test_a_watchdog_has_one_leader_with_a_quorum(changes: dict[str, dict[str, object]]) -> None:
    assert status.healthy(NATIVE, native())
    assert not status.healthy(NATIVE, native(**changes))


def test_the_pgpool_on_the_primarys_node_is_shown_as_the_leader() -> None:
    """Scripts of administrators look for it. Each pgpool-II serves clients, and none leads the others."""
    promoted: dict[str, object] = {"in_recovery": False, "follows": None, "led": 2, "term": 2}
    found = status.report(CLUSTER, facts(pg1={"term": 2}, pg2=promoted, pg3={"pgpool": None}), {})
    assert [row.state for row in found.pgpools] == ["standby", "leader", "down"]
    away = status.report(CLUSTER, facts(pg1={"reachable": False}), {})
    assert [row.state for row in away.pgpools] == ["unreachable", "leader", "standby"], "without a primary, the first"
    alone = replace(CLUSTER, nodes=CLUSTER.nodes[:1])
    assert [row.state for row in status.report(alone, facts(), {}).pgpools] == ["alone"]


def test_a_node_is_up_only_if_every_pgpool_sends_clients_to_it() -> None:
    found = status.report(CLUSTER, facts(pg2={"pgpool": DOWN}), {})
    assert [row.pgpool for row in found.nodes] == ["up", "up", "down"]
    none: dict[str, dict[str, object]] = {name: {"pgpool": None} for name in UP}
    assert [row.pgpool for row in status.report(CLUSTER, facts(**none), {}).nodes] == ["unknown"] * 3


def test_an_unreachable_node_is_shown_as_such_with_its_note() -> None:
    found = status.report(CLUSTER, facts(pg3={"reachable": False}), {"pg3": "no answer for 2 s", "pg1": ""})
    row = found.nodes[2]
    assert (row.role, row.postgresql, row.lag_bytes) == ("unknown", "unreachable", None)
    assert found.notes == {"pg3": "no answer for 2 s"}
    text = "\n".join(status.lines(found))
    assert "NOT healthy" in text
    assert "pg3: no answer for 2 s" in text


def test_a_leader_without_a_quorum_is_not_believed() -> None:
    """After a network split, it claims for seconds that all others are down."""
    cut_off = PgpoolFacts(WatchdogState.LEADER, False, {**UP, "pg2": BackendState.DOWN}, "pg1")
    leading = PgpoolFacts(WatchdogState.LEADER, True, {**UP, "pg1": BackendState.DOWN}, "pg2")
    found = status.report(NATIVE, native(pg1={"pgpool": cut_off}, pg2={"pgpool": leading}), {})
    assert [row.pgpool for row in found.nodes] == ["down", "up", "up"]


def test_a_held_node_has_a_hint_how_to_release_it() -> None:
    found = status.report(CLUSTER, facts(pg2={"held": True}), {})
    assert "pgpoolctl attach pg2" in found.notes["pg2"]


def test_the_archive_is_shown_if_there_is_one() -> None:
    usage = Usage(12, 201326592, 0.4149, "000000010000000000000001", "00000001000000000000000C")
    other = replace(CLUSTER, mode=Mode.NATIVE_REPLICATION)
    found = status.report(other, facts(pg1={"archive": usage}, pg2={"archive": usage, "reachable": False}), {})
    archive = ArchiveReport(12, 201326592, 0.41, usage.oldest, usage.newest)
    assert [row.archive for row in found.nodes] == [archive, None, None]
    assert "pg1      12     201326592  41%        000000010000000000000001" in status.lines(found)
    streaming = status.report(CLUSTER, facts(), {})
    assert [row.archive for row in streaming.nodes] == [None] * 3
    assert "archive" not in "\n".join(status.lines(streaming))


def test_the_records_of_diverged_wal_are_listed() -> None:
    kept = DivergedReport("20261130T171000Z-pg2-1", 1, "0/3000060", "0/3000A00", 2, 1, 20480)
    found = status.report(CLUSTER, facts(pg2={"diverged": (kept,)}), {})
    assert [row.diverged for row in found.nodes] == [(), (kept,), ()]
    told = wire.fields(found)
    assert wire.read(Report, told, "status") == found
    assert told["nodes"][1]["diverged"] == [  # type: ignore[index]
        {"name": kept.name, "timeline": 1, "begins": "0/3000060", "ends": "0/3000A00", "committed": 2, "other": 1,
         "bytes": 20480}
    ]  # fmt: skip
    assert "pg2:20261130T171000Z-pg2-1  2          1      0/3000060  0/3000A00  20480" in status.lines(found)
    assert "diverged WAL" not in "\n".join(status.lines(status.report(CLUSTER, facts(), {})))


def test_an_empty_archive_and_one_of_an_older_agent_can_be_shown() -> None:
    found = status.report(CLUSTER, facts(pg1={"archive": Usage(0, 0, 0.5)}), {})
    assert found.nodes[0].archive == ArchiveReport(0, 0, 0.5, None, None)
    told = wire.fields(found)
    del told["nodes"][1]["archive"]  # type: ignore[index]
    assert "pg1      0      0      50%        -" in status.lines(wire.read(Report, told, "status"))


def test_the_keys_of_the_json_are_those_of_the_documentation() -> None:
    """Scripts read them: they only grow in number (docs/reference/pgpoolctl.md)."""
    usage = Usage(12, 201326592, 0.4149, "000000010000000000000001", "00000001000000000000000C")
    other = replace(CLUSTER, mode=Mode.NATIVE_REPLICATION)
    found = status.report(other, facts(pg1={"archive": usage}), {"pg2": "it waits"})
    told = json.loads(json.dumps(wire.fields(found)))
    assert list(told) == ["cluster", "mode", "healthy", "nodes", "pgpools", "notes", "paused", "history"]
    assert list(told["nodes"][0]) == ["name", "address", "id", "role", "postgresql", "pgpool", "lag_bytes", "timeline",
                                      "streaming", "stalled", "note", "archive", "link", "diverged"]  # fmt: skip
    assert list(told["pgpools"][0]) == ["name", "state", "virtual_ip", "link"]
    assert told["nodes"][0]["archive"] == {"files": 12, "bytes": 201326592, "used": 0.41, "oldest": usage.oldest,
                                           "newest": usage.newest}  # fmt: skip
    assert told["notes"] == {"pg2": "it waits"}


def test_the_cluster_is_not_healthy_before_every_node_applies_synchronous_replication() -> None:
    """A second after `wait` returned, the cluster used to be unhealthy: a node had learnt of connected standbys."""
    of_now: dict[str, object] = {"file": CLUSTER.fingerprint, "standbys_came": True}
    assert status.healthy(CLUSTER, facts(pg1=of_now, pg2=of_now, pg3=of_now))
    assert not status.healthy(CLUSTER, facts(pg1=of_now, pg2=of_now, pg3={**of_now, "standbys_came": False}))
    assert not status.healthy(CLUSTER, facts(pg1=of_now, pg2={**of_now, "laid": False}, pg3=of_now))
    asynchronous = replace(CLUSTER, synchronous=0)
    later: dict[str, object] = {"file": asynchronous.fingerprint}
    assert status.healthy(asynchronous, facts(pg1=later, pg2=later, pg3=later))


def test_a_pause_and_the_last_events_are_shown() -> None:
    pause = Pause(3, True, 1000.0, "root@pg1", "new switches")
    event = Event(1000.0, "pg2", "promote", "promote pg2 term 2", term=2, seconds=0.8)
    found = replace(status.report(CLUSTER, facts(), {}), paused=pause, history=(event,))
    text = "\n".join(status.lines(found))
    assert "the cluster is paused by root@pg1: new switches; hint: pgpoolctl resume" in text
    assert text.splitlines()[1].startswith("PAUSED since 19")
    assert text.splitlines()[-1].endswith("term 2  pg2  promote: promote pg2 term 2 (0.8 s)")
    assert wire.read(Report, json.loads(json.dumps(wire.fields(found))), "status") == found
    older = {name: part for name, part in wire.fields(found).items() if name not in ("paused", "history")}
    assert wire.read(Report, older, "status").paused is None
