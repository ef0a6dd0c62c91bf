"""Datagrams of heartbeats: authenticated, bounded, typed, and readable by other versions."""

from __future__ import annotations

import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_cluster.decision import terms
from pgpool_cluster.decision.facts import Lsn, Postgresql
from pgpool_cluster.decision.heartbeat import Echo, Heartbeat, NodeState
from pgpool_cluster.transport.datagram import LONGEST_BYTES, decode, encode

KEY, OTHER = bytes(32), bytes(31) + b"1"
STATE = NodeState(5, 4, Postgresql.UP, True, "pg1", True, Lsn(2**40), 3, True)
BEAT = Heartbeat("pg1", "pg2", 2**64 - 1, 12345, (Echo(2**64 - 2, 44),), ("pg3",), STATE)
NUMBERS = st.integers(0, 2**64 - 1)
TERMS = st.integers(0, terms.highest())
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True)
STATES = st.builds(
    NodeState, TERMS, TERMS, st.none() | st.sampled_from(Postgresql), st.booleans(), st.none() | NAMES, st.booleans(),
    st.none() | st.builds(Lsn, NUMBERS), st.none() | NUMBERS, st.none() | st.booleans(),
)  # fmt: skip
BEATS = st.builds(
    Heartbeat, NAMES, NAMES, NUMBERS, NUMBERS, st.lists(st.builds(Echo, NUMBERS, NUMBERS), max_size=2).map(tuple),
    st.lists(NAMES, max_size=4).map(tuple), STATES,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def made_of(values: object, key: bytes = KEY) -> bytes:
    """Return an authentic datagram with any JSON."""
    body = json.dumps(values).encode()
    return hmac.digest(key, body, "sha256") + body


def values_of(beat: Heartbeat) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(beat, KEY)[32:])
    return found


@given(BEATS)
def test_every_heartbeat_is_read_as_it_was_sent(beat: Heartbeat) -> None:
    data = encode(beat, KEY)
    assert len(data) <= LONGEST_BYTES
    assert decode(data, KEY) == beat


def test_a_cluster_of_nine_nodes_with_the_longest_names_fits() -> None:
    names = [f"{number}{'n' * 62}" for number in range(9)]
    biggest = replace(STATE, term=terms.highest(), led=terms.highest(), follows=names[0], position=Lsn(2**64 - 1))
    echoes = (Echo(2**64 - 1, 2**64 - 1), Echo(2**64 - 2, 2**64 - 1))
    beat = Heartbeat(names[0], names[1], 2**64 - 1, 2**64 - 1, echoes, tuple(names[1:]), biggest)
    assert len(encode(beat, KEY)) <= LONGEST_BYTES
    assert decode(encode(beat, KEY), KEY) == beat


def test_names_that_do_not_fit_are_omitted() -> None:
    names = tuple(f"{number:03}{'n' * 60}" for number in range(128))
    data = encode(replace(BEAT, lost=names), KEY)
    found = decode(data, KEY)
    assert len(data) <= LONGEST_BYTES
    assert found is not None
    assert 10 <= len(found.lost) < 128
    assert found.lost == names[: len(found.lost)]


@given(BEATS, st.integers(0, LONGEST_BYTES), st.integers(1, 255))
def test_a_changed_byte_makes_a_datagram_worthless(beat: Heartbeat, place: int, change: int) -> None:
    data = bytearray(encode(beat, KEY))
    data[place % len(data)] ^= change
    assert decode(bytes(data), KEY) is None


@given(st.binary(max_size=LONGEST_BYTES + 9))
def test_noise_is_dropped(data: bytes) -> None:
    assert decode(data, KEY) is None


def test_another_key_a_cut_and_an_addition_are_dropped() -> None:
    data = encode(BEAT, KEY)
    assert decode(data, OTHER) is None
    assert decode(data[:-1], KEY) is None
    assert decode(data + b" ", KEY) is None
    assert decode(data[:32], KEY) is None


def test_a_long_datagram_is_dropped_although_it_is_authentic() -> None:
    values = values_of(BEAT)
    assert decode(made_of({**values, "pad": "x" * LONGEST_BYTES}), KEY) is None
    room = LONGEST_BYTES - len(made_of({**values, "pad": ""}))
    assert decode(made_of({**values, "pad": "x" * room}), KEY) == BEAT
    assert decode(made_of({**values, "pad": "x" * (room + 1)}), KEY) is None


@given(JSON)
def test_any_other_authentic_json_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"cannot be|no heartbeat"):
        decode(made_of(values), KEY)


@given(st.sampled_from(["v", "from", "to", "inc", "seq", "echo", "lost", "state"]), JSON)
def test_a_value_of_another_type_is_refused_or_read_as_its_own_type(name: str, value: object) -> None:
    try:
        found = decode(made_of({**values_of(BEAT), name: value}), KEY)
    except ValueError:
        return
    if found is not None:
        assert encode(found, KEY), "what was read can be written"


@pytest.mark.parametrize(
    "wrong",
    [
        {"inc": -1}, {"inc": 2**64}, {"inc": True}, {"inc": 1.0}, {"inc": "1"}, {"seq": None}, {"seq": 10**400},
        {"from": 1}, {"from": "x" * 64}, {"to": None}, {"to": ["pg2"]}, {"v": "1"}, {"v": -1},
        {"echo": 1}, {"echo": [1]}, {"echo": [[1]]}, {"echo": [[1, -2]]}, {"echo": [[1, 2, 3]]}, {"echo": {"a": 1}},
        {"lost": "pg3"}, {"lost": [1]}, {"lost": [None]}, {"state": None}, {"state": []},
        *({"state": state} for state in (
            {"term": -1}, {"term": 10**12}, {"term": "5"}, {"led": 1.5}, {"pg": 1}, {"pg": ["up"]},
            {"rec": 1}, {"rec": None}, {"follows": 1}, {"wal": "yes"}, {"lsn": "0/0"}, {"lsn": -1}, {"lsn": 2**64},
            {"tl": True}, {"pool": 1})),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        decode(made_of({**values_of(BEAT), **wrong}), KEY)


@pytest.mark.parametrize("name", ["v", "from", "to", "inc", "seq", "echo", "lost", "state"])
def test_a_heartbeat_without_a_key_is_refused(name: str) -> None:
    values = values_of(BEAT)
    del values[name]
    with pytest.raises(ValueError, match="no heartbeat"):
        decode(made_of(values), KEY)


def test_deep_nesting_is_refused() -> None:
    body = b"[" * (LONGEST_BYTES - 32)
    with pytest.raises(ValueError, match=r"cannot be|no heartbeat"):
        decode(hmac.digest(KEY, body, "sha256") + body, KEY)


def test_a_heartbeat_of_a_newer_version_counts() -> None:
    values = values_of(BEAT)
    state = {**values["state"], "pg": "hibernating", "fenced": True}
    newer = {**values, "v": 2, "state": state, "more": [{"a": None}]}
    assert decode(made_of(newer), KEY) == replace(BEAT, state=replace(STATE, postgresql=None))


def test_a_state_may_lack_every_value() -> None:
    assert decode(made_of({**values_of(BEAT), "state": {}}), KEY) == replace(BEAT, state=NodeState())
