"""Facts as data: WAL positions, and the transfer of facts between nodes."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cluster.nodes import OTHER_SYSTEM, primary, standby

from pgpool_cluster.decision.facts.facts import (
    BackendState,
    Lsn,
    NodeFacts,
    PgpoolFacts,
    Postgresql,
    Switch,
    WatchdogState,
    contains,
)
from pgpool_cluster.ground.usage import Usage
from pgpool_cluster.transport import wire


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ("0/3000028", 114, "0/30000A0"),
        ("0/3001FF0", 114, "0/3002080"),  # it continues on the next page, after its header
        ("0/3001F88", 120, "0/3002000"),
    ],
)
def test_where_a_record_ends(start: str, length: int, end: str) -> None:
    assert str(Lsn.parse(start).after_record(length)) == end


def test_facts_survive_the_transfer_between_two_nodes() -> None:
    pgpool = PgpoolFacts(WatchdogState.LEADER, True, {"pg1": BackendState.UP, "pg2": BackendState.DOWN}, "pg1")
    facts = NodeFacts(
        "pg1", postgresql=Postgresql.UP, member=True, term=3, led=2, system=7, databases=("app",), timeline=2,
        position=Lsn.parse("1/A0"), replayed=None, history=(Switch(1, Lsn.parse("0/5000000")),), follows=None,
        slots=frozenset({"pg2"}), pgpool=pgpool, users=4,
        archive=Usage(3, 1 << 24, 0.41, "000000010000000000000001", "000000010000000000000003"),
    )  # fmt: skip
    assert wire.read(NodeFacts, json.loads(json.dumps(wire.fields(facts))), "facts") == facts
    bare = NodeFacts("pg2")
    assert wire.read(NodeFacts, json.loads(json.dumps({**wire.fields(bare), "of_tomorrow": 1})), "facts") == bare


def test_facts_of_an_older_node_without_an_archive_are_read() -> None:
    values = wire.fields(NodeFacts("pg2"))
    del values["archive"]
    assert wire.read(NodeFacts, values, "facts") == NodeFacts("pg2")


LSNS = st.builds(Lsn, st.integers(0, 2**64 - 1))
NAMES = st.text("abc123é-", min_size=1)
TERMS = st.integers(0, 10**6)
ANY_FACTS = st.builds(
    NodeFacts, NAMES, reachable=st.booleans(), postgresql=st.sampled_from(Postgresql), member=st.booleans(),
    term=TERMS, led=TERMS, system=st.none() | st.integers(0, 2**64 - 1),
    databases=st.none() | st.lists(NAMES).map(tuple), in_recovery=st.booleans(), standby_signal=st.booleans(),
    timeline=st.none() | st.integers(), position=st.none() | LSNS, replayed=st.none() | LSNS,
    history=st.lists(st.builds(Switch, st.integers(), LSNS)).map(tuple), follows=st.none() | NAMES,
    streaming=st.booleans(), slots=st.frozensets(NAMES), half_copied=st.booleans(), promoting=st.booleans(),
    pgpool=st.none() | st.builds(
        PgpoolFacts, st.sampled_from(WatchdogState), st.booleans(),
        st.dictionaries(NAMES, st.sampled_from(BackendState)), st.none() | NAMES,
    ),
    held=st.booleans(), virtual_ip=st.booleans(), users=TERMS, key=NAMES,
    archive=st.none() | st.builds(Usage, st.integers(), st.integers(), st.floats(0, 1), NAMES, NAMES),
    stalled=NAMES, settings=st.dictionaries(NAMES, st.integers()), needs=st.dictionaries(NAMES, st.integers()),
)  # fmt: skip
JUNK: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=3), part, max_size=2), max_leaves=4,
)  # fmt: skip


@given(ANY_FACTS)
def test_any_facts_survive_the_transfer_between_two_nodes(facts: NodeFacts) -> None:
    assert wire.read(NodeFacts, json.loads(json.dumps(wire.fields(facts))), "facts") == facts


@given(ANY_FACTS, st.sampled_from([field.name for field in fields(NodeFacts)]), JUNK)
def test_junk_in_a_fact_is_refused_or_means_the_same(facts: NodeFacts, name: str, junk: object) -> None:
    values = {**wire.fields(facts), name: junk}
    try:
        found = wire.read(NodeFacts, values, "facts")
    except ValueError:
        return
    if name == "slots" and isinstance(junk, list):
        junk = sorted(set(junk))
    assert json.dumps(wire.fields(found)[name], sort_keys=True).lower() == json.dumps(junk, sort_keys=True).lower()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("term", "9"),
        ("term", 9.0),
        ("term", True),
        ("term", None),
        ("member", 1),
        ("member", "yes"),
        ("node", 7),
        ("key", None),
        ("system", "7000"),
        ("timeline", [1]),
        ("databases", "app"),
        ("databases", [1]),
        ("slots", {"pg2": 1}),
        ("position", 5),
        ("position", "5"),
        ("history", [[1]]),
        ("history", [["1", "0/5"]]),
        ("history", [[1, 5]]),
        ("pgpool", []),
        ("pgpool", {"watchdog": "leader", "quorum": 1, "backends": {}}),
        ("pgpool", {"watchdog": "leader", "quorum": True, "backends": {"pg1": "asleep"}}),
        ("pgpool", {"watchdog": "leader"}),
        ("archive", {"files": 1, "bytes": 1, "used": "0.5"}),
        ("archive", {"files": 1, "bytes": 1, "used": float("nan")}),
        ("archive", {"files": 1, "bytes": 1, "used": 10**400}),
    ],
)
def test_a_fact_of_a_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.read(NodeFacts, {**wire.fields(primary("pg1")), name: value}, "facts")


def test_the_message_about_a_malformed_fact_is_short() -> None:
    with pytest.raises(ValueError, match="term cannot be") as refusal:
        wire.read(NodeFacts, {**wire.fields(primary("pg1")), "term": ["x" * 1_000_000] * 10}, "facts")
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("values", [{}, {"node": "pg1", "postgresql": "levitating"}, {"node": "pg1"}])
def test_malformed_facts_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.read(NodeFacts, values, "facts")


@pytest.mark.parametrize(
    ("target", "fits"),
    [
        pytest.param(standby("pg3", "pg1", at=1000), True, id="stopped where the timeline forked"),
        pytest.param(standby("pg3", "pg1", at=1001), False, id="went on after the fork"),
        pytest.param(standby("pg3", "pg1", timeline=2, at=1500), True, id="same timeline, same place"),
        pytest.param(replace(standby("pg3", "pg1"), system=OTHER_SYSTEM), False, id="another system"),
        pytest.param(replace(standby("pg3", "pg1"), position=None), None, id="unknown end, as after a crash"),
        pytest.param(
            replace(standby("pg3", "pg1", timeline=2), history=(Switch(1, Lsn(5)),)), False, id="a namesake timeline"
        ),
    ],
)
def test_a_node_can_follow_if_its_log_is_part_of_the_primarys(target: NodeFacts, fits: bool | None) -> None:
    assert contains(primary("pg2", timeline=2, at=1500), target) is fits


@given(st.integers(0, 2**64 - 1))
def test_a_position_survives_a_round_trip(number: int) -> None:
    assert Lsn.parse(str(Lsn(number))) == Lsn(number)


@pytest.mark.parametrize("text", ["", "0", "0/", "g/0", "0/0/0", " 0/0", "123456789/0"])
def test_a_malformed_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no WAL position"):
        Lsn.parse(text)
