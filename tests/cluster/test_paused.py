"""An administrator pauses the cluster, the primary is lost, and its history tells the story afterwards."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.cluster.cluster import Cluster
from tests.host import Host, together

from pgpool_cluster.decision.reports.events import MESSAGE_IDS, EventKind

KILL = "pkill -9 -u postgres -x postgres || :"
STILL_SECONDS = 25.0
"""Longer than a failover without a pause."""
PROMOTED_SECONDS = 60.0


def report(host: Host) -> Any:
    """Return the output of `pgpoolctl status --json`."""
    return json.loads(host.attempt("pgpoolctl status --json", seconds=60).output)


def history(host: Host, words: str = "") -> Any:
    return json.loads(host.run(f"pgpoolctl history --json {words}", seconds=60))


def stand_still(cluster: Cluster, *hosts: Host) -> None:
    """Check for some seconds that no node of these accepts writes."""
    end = time.monotonic() + STILL_SECONDS
    while time.monotonic() < end:
        assert cluster.writable(*hosts) == []
        time.sleep(1)


@pytest.fixture(scope="module")
def began(cluster: Cluster, pg1: Host) -> int:
    """When the story began, in seconds since 1970."""
    cluster.wait_healthy()
    return int(float(pg1.run("date +%s")))


def test_1_every_node_reports_a_pause_and_clients_are_served(
    cluster: Cluster, began: int, pg1: Host, pg2: Host
) -> None:
    assert began
    said = pg2.run("pgpoolctl pause --reason 'new switches'")
    assert said == "the cluster is paused"
    for host in cluster.hosts:
        found = report(host)
        assert (found["healthy"], found["paused"]["by"], found["paused"]["reason"]) == (
            True,
            "root@pg2",
            "new switches",
        )
        text = host.run("pgpoolctl status")
        assert "the cluster is paused by root@pg2: new switches; hint: pgpoolctl resume" in text
    pg1.run("pgpoolctl wait --timeout 30")
    assert cluster.writable() == ["pg1"]


def test_2_the_primarys_postgresql_is_killed_and_no_node_takes_its_place(cluster: Cluster, pg1: Host) -> None:
    pg1.run(KILL)
    stand_still(cluster)
    assert "held back: resume pg1 term " in pg1.attempt("pgpoolctl status").output


def test_3_its_host_is_killed_as_well_and_no_standby_is_promoted(
    cluster: Cluster, pg1: Host, pg2: Host, pg3: Host
) -> None:
    pg1.kill()
    stand_still(cluster, pg2, pg3)
    assert [node.role for node in cluster.status(pg2).nodes.values()] == ["unknown", "standby", "standby"]


def test_4_after_the_pause_a_standby_is_promoted(cluster: Cluster, pg2: Host, pg3: Host) -> None:
    assert pg3.run("pgpoolctl resume").splitlines() == [
        "the cluster is not paused",
        "pg1 has not recorded it; it will, once it sees a database node that has",
    ]
    cluster.until(lambda status: status.has_primary, "a standby is promoted", PROMOTED_SECONDS, pg2)
    assert report(pg2)["paused"] is None


def in_order(events: list[Any], story: list[str]) -> list[str]:
    """Return the kinds of a story in the order in which each one happened first."""
    kinds = [event["kind"] for event in events]
    return sorted((kind for kind in story if kind in kinds), key=kinds.index)


def test_5_the_history_of_all_nodes_tells_it_in_order(cluster: Cluster, began: int, pg2: Host, pg3: Host) -> None:
    new = cluster.primary(pg2)
    story = ["pause", "end-pause", "claim-term", "promote"]
    for host in (pg2, pg3):
        found = history(host, f"--since $(date -Is -d @{began})")
        assert in_order(found["events"], story) == story, found
        (promoted,) = [event for event in found["events"] if event["kind"] == "promote" and not event["failed"]]
        assert promoted["node"] == new.name
        assert "pg1 is unreachable" in promoted["seen"]
        assert promoted["why"]
        assert 0 < promoted["seconds"] < PROMOTED_SECONDS
        assert list(found["unreached"]) == ["pg1"]
        terms = [event["term"] for event in found["events"]]
        assert terms == sorted(terms)
    text = pg2.run("pgpoolctl history -n 20")
    assert "promote: promote " in text
    assert "pg1: its events are missing: " in text
    assert len(report(pg2)["history"]) == 3


@pytest.mark.parametrize("kind", [EventKind.PROMOTE, EventKind.PAUSE, EventKind.END_PAUSE])
def test_6_the_journal_finds_an_event_by_its_message_id(kind: EventKind, began: int, pg2: Host, pg3: Host) -> None:
    ask = f"journalctl -q -b --since=@{began} -o json MESSAGE_ID={MESSAGE_IDS[kind]}"
    lines = [line for host in (pg2, pg3) for line in host.run(ask).splitlines()]
    found = [json.loads(line) for line in lines]
    assert found, kind
    for entry in found:
        assert entry["PGPOOL_CLUSTER_EVENT"] == kind
        assert entry["_SYSTEMD_UNIT"] == "pgpool2-cluster.service"
        assert entry["SYSLOG_IDENTIFIER"] == "pgpoolctl"
        assert int(entry["PGPOOL_CLUSTER_TERM"]) >= 1
        assert entry["MESSAGE"].startswith(entry["PGPOOL_CLUSTER_WHAT"])


def test_7_the_catalog_explains_the_entries(began: int, pg2: Host, pg3: Host) -> None:
    ask = f"journalctl -q -b -x --since=@{began} MESSAGE_ID={MESSAGE_IDS[EventKind.PROMOTE]}"
    assert "A standby was promoted" in "".join(together(lambda host: host.run(ask), (pg2, pg3)))


def test_8_the_events_of_the_lost_host_are_there_when_it_is_back(
    cluster: Cluster, began: int, pg1: Host, pg2: Host
) -> None:
    """Events outlive a volatile journal."""
    pg1.start()
    cluster.until(lambda status: status.nodes["pg1"].postgresql != "unreachable", "pg1 is back", 90, pg2)
    found = history(pg2, f"-n 1000 --since $(date -Is -d @{began})")
    story = ["pause", "end-pause", "claim-term", "promote"]
    assert in_order(found["events"], story) == story, found
    assert found["unreached"] == {}
    pg1.run("pgpoolctl recover pg1 || :", seconds=200)  # it may have come back by itself
    cluster.wait_healthy()
    assert report(pg1)["paused"] is None, "pg1 has learnt the end of the pause"


def test_9_events_outlive_a_reboot(cluster: Cluster, pg2: Host, pg3: Host) -> None:
    other = pg3 if cluster.primary(pg2) == pg2 else pg2

    def own() -> list[Any]:
        return [event for event in history(other, "-n 1000")["events"] if event["node"] == other.name]

    before = own()
    assert before
    other.reboot()
    other.until("pgpoolctl history --json >/dev/null", 90)
    assert own()[: len(before)] == before
    assert other.run("stat -c '%U %a' /var/lib/pgpool2-cluster/history.jsonl") == "postgres 600"
    cluster.wait_healthy()
