"""Facts as data: places in the write-ahead log, and what travels between nodes."""

from __future__ import annotations

import json

import pytest

from pgpool_cluster import wire
from pgpool_cluster.archive import Usage
from pgpool_cluster.facts import BackendState, Lsn, NodeFacts, PgpoolFacts, Postgresql, Switch, WatchdogState


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ("0/3000028", 114, "0/30000A0"),
        ("0/3001FF0", 114, "0/3002080"),  # goes on on the next page, after its header
        ("0/3001F88", 120, "0/3002000"),
    ],
)
def test_where_a_record_ends(start: str, length: int, end: str) -> None:
    assert str(Lsn.parse(start).after_record(length)) == end


def test_facts_survive_the_way_between_two_nodes() -> None:
    pgpool = PgpoolFacts(WatchdogState.LEADER, True, {"pg1": BackendState.UP, "pg2": BackendState.DOWN}, "pg1")
    facts = NodeFacts(
        "pg1", postgresql=Postgresql.UP, member=True, term=3, led=2, system=7, databases=("app",), timeline=2,
        position=Lsn.parse("1/A0"), replayed=None, history=(Switch(1, Lsn.parse("0/5000000")),), follows=None,
        slots=frozenset({"pg2"}), pgpool=pgpool, users=4,
        archive=Usage(3, 1 << 24, 0.41, "000000010000000000000001", "000000010000000000000003"),
    )  # fmt: skip
    assert wire.decode(json.loads(json.dumps(wire.encode(facts)))) == facts
    bare = NodeFacts("pg2")
    assert wire.decode(json.loads(json.dumps({**wire.encode(bare), "of_tomorrow": 1}))) == bare


def test_the_facts_of_an_older_node_have_no_archive_in_them() -> None:
    values = wire.encode(NodeFacts("pg2"))
    del values["archive"]
    assert wire.decode(values) == NodeFacts("pg2")


@pytest.mark.parametrize("values", [{}, {"node": "pg1", "postgresql": "levitating"}, {"node": "pg1"}])
def test_what_is_no_fact_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.decode(values)
