"""What each node does where every node is a primary."""

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
        "a new node that pgpool-II takes for a member is detached, and keeps what it holds",
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
        "so does one that runs",
        (
            replace(primary("pg1", term=2), pgpool=pgpool("pg3")),
            primary("pg2", term=2),
            primary("pg3", term=2, led=1),
        ),
        {"pg1": [], "pg2": [], "pg3": ["AwaitRecovery"]},
        NATIVE,
    ),
    Situation(
        "a node is out of service once pgpool-II goes on without it",
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
        "a pgpool-II that was cut off from all wrote nothing, so it dismisses nobody",
        (primary("pg1", term=2), primary("pg2", term=2), replace(absent("pg3"), pgpool=pgpool("pg1", "pg2", "pg3"))),
        {"pg3": ["Wait", "Attach", "Attach"]},
        NATIVE,
    ),
    Situation(
        "one that was cut off and wrote to its own node alone loses that, not what the others have",
        (
            primary("pg1", term=2),
            primary("pg2", term=2),
            replace(primary("pg3", term=2, led=1), pgpool=pgpool("pg1", "pg2")),
        ),
        {"pg3": ["AwaitRecovery", "Detach", "Attach", "Attach"]},
        NATIVE,
    ),
    Situation(
        "a minority dismisses nobody, as the others may just have dismissed it",
        (replace(primary("pg1", term=2), pgpool=pgpool("pg2", "pg3")), away("pg2"), away("pg3")),
        {"pg1": []},
        NATIVE,
    ),
    Situation(
        "two that missed writes at once are dismissed, the one that has them stays",
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
        "nobody missed a write while all were down in order, and pgpool-II waits for all",
        (primary("pg1"), down(primary("pg2")), down(primary("pg3"))),
        {"pg2": ["Start", "Wait"], "pg3": ["Start", "Wait"]},
        NATIVE,
    ),
    Situation(
        "after a power cut the first node is the measure",
        (crashed(primary("pg1")), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg1": ["Start"], "pg2": ["Wait"], "pg3": ["Wait"]},
        NATIVE,
    ),
    Situation(
        "the others are rebuilt from it",
        (replace(primary("pg1"), pgpool=pgpool("pg2", "pg3")), crashed(primary("pg2")), crashed(primary("pg3"))),
        {"pg2": ["Rebuild", "Wait"], "pg3": ["Rebuild", "Wait"]},
        NATIVE,
    ),
    Situation(
        "where only some crashed, the first begins a term of its own",
        (crashed(primary("pg1")), down(primary("pg2")), down(primary("pg3"))),
        {"pg1": ["Serve"], "pg2": ["Wait"], "pg3": ["Wait"]},
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
def test_each_node_does_what_its_situation_asks_for(situation: Situation) -> None:
    assert situation.done == situation.wanted
