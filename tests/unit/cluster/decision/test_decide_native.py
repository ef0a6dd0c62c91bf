"""The decisions of each node if every node is a primary."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import (
    NATIVE,
    Situation,
    absent,
    away,
    crashed,
    down,
    fresh,
    pgpool,
    primary,
)

from pgpool_cluster.decision.facts.facts import NodeFacts, Postgresql
from pgpool_cluster.decision.situation import Policy

BOOTING = Policy(patient=True)


def measure(name: str, *, term: int = 2) -> NodeFacts:
    """A node that crashed with the others and has begun its own term."""
    return replace(primary(name, term=term), restart=term - 1)


SITUATIONS = [
    Situation(
        "the first founds it and pgpool-II starts, so that it can rebuild the others",
        (replace(primary("pg1"), pgpool=None), fresh("pg2"), absent("pg3")),
        {"pg1": ["StartPgpool"], "pg2": ["Wait", "StartPgpool"], "pg3": ["Wait", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "new nodes are rebuilt by the pgpool-II that leads",
        (replace(primary("pg1"), pgpool=pgpool("pg2", "pg3")), fresh("pg2"), absent("pg3")),
        {"pg1": [], "pg2": ["Rebuild", "StartPgpool"], "pg3": ["Rebuild", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a new node that pgpool-II treats as a member is detached, and keeps its data",
        (replace(primary("pg1"), pgpool=pgpool("pg3")), fresh("pg2", "precious"), absent("pg3")),
        {"pg1": ["Detach"], "pg2": ["Refuse", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a node that missed writes waits for its recovery",
        (primary("pg1", term=2), primary("pg2", term=2), down(primary("pg3"))),
        {"pg3": ["AwaitRecovery", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a running node that missed writes waits for its recovery, too",
        (
            replace(primary("pg1", term=2), pgpool=pgpool("pg3")),
            primary("pg2", term=2),
            primary("pg3", term=2, led=1),
        ),
        {"pg1": [], "pg2": [], "pg3": ["AwaitRecovery"]},
        NATIVE,
    ),
    Situation(
        "a node is out of service once pgpool-II continues without it",
        (replace(primary("pg1"), pgpool=pgpool("pg3")), primary("pg2"), primary("pg3")),
        {"pg1": ["Dismiss"], "pg2": [], "pg3": []},
        NATIVE,
    ),
    Situation(
        "the last node in service stays, whatever pgpool-II believes",
        (replace(primary("pg1", term=2), pgpool=pgpool("pg1")), away("pg2"), away("pg3")),
        {"pg1": ["Attach"]},
        NATIVE,
    ),
    Situation(
        "a pgpool-II that was cut off from all nodes wrote nothing, so it dismisses no node",
        (primary("pg1", term=2), primary("pg2", term=2), replace(absent("pg3"), pgpool=pgpool("pg1", "pg2", "pg3"))),
        {"pg3": ["Wait", "Attach", "Attach"]},
        NATIVE,
    ),
    Situation(
        "a pgpool-II that was cut off and wrote to its own node alone loses these writes, not those of the others",
        (
            primary("pg1", term=2),
            primary("pg2", term=2),
            replace(primary("pg3", term=2, led=1), pgpool=pgpool("pg1", "pg2")),
        ),
        {"pg3": ["AwaitRecovery", "Detach", "Attach", "Attach"]},
        NATIVE,
    ),
    Situation(
        "a minority dismisses no node, since the others may have dismissed it, but records that it stands apart",
        (replace(primary("pg1", term=2), pgpool=pgpool("pg2", "pg3")), away("pg2"), away("pg3")),
        {"pg1": ["StandApart"]},
        NATIVE,
    ),
    Situation(
        "two nodes that missed writes at once are dismissed, and the node that has them stays",
        (replace(primary("pg1"), pgpool=pgpool("pg2", "pg3")), primary("pg2"), primary("pg3")),
        {"pg1": ["Dismiss", "Dismiss"]},
        NATIVE,
    ),
    Situation(
        "the last stage of a recovery is not disturbed",
        (
            replace(primary("pg1", term=2), pgpool=pgpool("pg3")),
            primary("pg2", term=2),
            replace(primary("pg3", term=2, led=0), promoting=True),
        ),
        {"pg1": [], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "no node missed a write if all were stopped cleanly, and pgpool-II waits for all",
        (replace(primary("pg1"), pgpool=None), down(primary("pg2")), down(primary("pg3"))),
        {"pg1": ["Wait"], "pg2": ["Start", "Wait"], "pg3": ["Start", "Wait"]},
        NATIVE,
        BOOTING,
    ),
    Situation(
        "pgpool-II stops waiting: nodes in service begin a term without a node that is away",
        (replace(primary("pg1"), pgpool=None), replace(primary("pg2"), pgpool=None), away("pg3")),
        {"pg1": ["Begin", "StartPgpool"], "pg2": ["Begin", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "no term is begun while a pgpool-II serves, or for a node that is already out of service",
        (
            replace(primary("pg1", term=2), pgpool=None),
            replace(primary("pg2", term=2), pgpool=None),
            down(primary("pg3")),
        ),
        {"pg1": ["StartPgpool"], "pg2": ["StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a minority begins no term, since the others may serve",
        (replace(primary("pg1"), pgpool=None), away("pg2"), away("pg3")),
        {"pg1": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "after a power cut the first node is the measure",
        (crashed(primary("pg1")), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg1": ["Serve"], "pg2": ["Wait"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "it is the first of those that can start",
        (replace(primary("pg1"), postgresql=Postgresql.ABSENT), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg2": ["Serve"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "while the others boot, its pgpool-II does not wait for a node that is to be rebuilt",
        (replace(measure("pg1"), pgpool=None), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg1": ["StartPgpool"], "pg2": ["Wait", "StartPgpool"], "pg3": ["Wait", "StartPgpool"]},
        NATIVE,
        BOOTING,
    ),
    Situation(
        "the others are rebuilt from it",
        (replace(measure("pg1"), pgpool=pgpool("pg2", "pg3")), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg1": [], "pg2": ["Rebuild", "StartPgpool"], "pg3": ["Rebuild", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a node that stopped cleanly and boots late is rebuilt, too",
        (replace(measure("pg1"), pgpool=pgpool("pg2", "pg3")), away("pg2"), down(primary("pg3"))),
        {"pg3": ["Rebuild", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a node that was out of service before the power cut waits for an administrator",
        (
            replace(measure("pg1", term=3), pgpool=pgpool("pg2", "pg3")),
            crashed(primary("pg2", term=2)),
            crashed(primary("pg3")),
        ),
        {"pg2": ["Rebuild", "StartPgpool"], "pg3": ["AwaitRecovery", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "if only some nodes crashed, those that stopped cleanly start",
        (crashed(primary("pg1")), down(primary("pg2")), down(primary("pg3"))),
        {"pg1": ["Wait"], "pg2": ["Start"], "pg3": ["Start"]},
        NATIVE,
    ),
    Situation(
        "a crashed node waits for a starting node, which may have stopped cleanly",
        (
            crashed(primary("pg1")),
            replace(crashed(primary("pg2")), postgresql=Postgresql.STARTING),
            down(primary("pg3")),
        ),
        {"pg1": ["Wait"], "pg3": ["Start"]},
        NATIVE,
    ),
    Situation(
        "a crashed node gives its place up once another one runs",
        (crashed(primary("pg1")), primary("pg2"), primary("pg3")),
        {"pg1": ["GiveUpPlace", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a node whose recovery was interrupted before pgpool-II attached it is rebuilt",
        (
            replace(primary("pg1", term=2), pgpool=pgpool("pg3")),
            primary("pg2", term=2),
            crashed(primary("pg3", term=2, led=0)),
        ),
        {"pg3": ["Rebuild", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "a term that no node leads keeps no node out if all are in sight",
        (crashed(primary("pg1", term=2, led=1)), crashed(primary("pg2", term=2, led=1)), crashed(primary("pg3"))),
        {"pg1": ["Serve"], "pg2": ["Wait"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "a later term that a node out of sight may serve in keeps the others out",
        (crashed(primary("pg1", term=2, led=1)), crashed(primary("pg2", term=2, led=1)), away("pg3")),
        {"pg1": ["AwaitRecovery"], "pg2": ["AwaitRecovery"]},
        NATIVE,
    ),
    Situation(
        "the node that clients wrote to alone serves, although the others stopped cleanly, too",
        (down(primary("pg1")), down(replace(primary("pg2"), apart=True)), down(primary("pg3"))),
        {"pg1": ["Wait"], "pg2": ["Serve"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "that node begins a term without the others when it sees most nodes again",
        (down(primary("pg1")), replace(primary("pg2"), apart=True), primary("pg3")),
        {"pg1": ["Wait", "StartPgpool"], "pg2": ["Begin"], "pg3": []},
        NATIVE,
    ),
    Situation(
        "then the others are rebuilt, whether they run or not",
        (down(primary("pg1")), replace(measure("pg2"), pgpool=pgpool("pg1", "pg3")), primary("pg3")),
        {"pg1": ["Rebuild", "StartPgpool"], "pg3": ["Rebuild"]},
        NATIVE,
    ),
    Situation(
        "clients' writes to two separated nodes are not discarded without an administrator",
        (replace(measure("pg1"), pgpool=pgpool("pg2", "pg3")), down(replace(primary("pg2"), apart=True)), away("pg3")),
        {"pg2": ["AwaitRecovery", "StartPgpool"]},
        NATIVE,
    ),
    Situation(
        "if no node has every write, an administrator decides which data counts",
        tuple(replace(crashed(primary(name, led=0)), position=None) for name in ("pg1", "pg2", "pg3")),
        {"pg1": ["Refuse"]},
        NATIVE,
    ),
    Situation(
        "a minority starts nothing",
        (down(primary("pg1")), away("pg2"), away("pg3")),
        {"pg1": ["Wait"]},
        NATIVE,
    ),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.story)
def test_each_node_does_what_its_situation_requires(situation: Situation) -> None:
    assert situation.done == situation.wanted
