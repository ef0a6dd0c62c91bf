"""Datagrams of heartbeats: authenticated, bounded, typed, and readable by other versions."""

from __future__ import annotations

import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.decision.liveness.heartbeat import Echo, Heartbeat
from pgpool_cluster.transport.datagram import LONGEST_BYTES, decode, encode

KEY, OTHER = bytes(32), bytes(31) + b"1"
BEAT = Heartbeat("pg1", "pg2", 2**64 - 1, 12345, (Echo(2**64 - 2, 44),), Postgresql.UP)
NUMBERS = st.integers(0, 2**64 - 1)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True)
BEATS = st.builds(
    Heartbeat, NAMES, NAMES, NUMBERS, NUMBERS, st.lists(st.builds(Echo, NUMBERS, NUMBERS), max_size=2).map(tuple),
    st.none() | st.sampled_from(Postgresql),
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


def test_the_longest_names_and_numbers_fit() -> None:
    echoes = (Echo(2**64 - 1, 2**64 - 1), Echo(2**64 - 2, 2**64 - 1))
    beat = Heartbeat("n" * 63, "m" * 63, 2**64 - 1, 2**64 - 1, echoes, Postgresql.STARTING)
    assert len(encode(beat, KEY)) <= LONGEST_BYTES
    assert decode(encode(beat, KEY), KEY) == beat


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


@given(st.sampled_from(["v", "from", "to", "inc", "seq", "echo", "pg"]), JSON)
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
        {"pg": 1}, {"pg": ["up"]},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        decode(made_of({**values_of(BEAT), **wrong}), KEY)


@pytest.mark.parametrize("name", ["v", "from", "to", "inc", "seq", "echo"])
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
    newer = {**values_of(BEAT), "v": 2, "pg": "hibernating", "more": [{"a": None}]}
    assert decode(made_of(newer), KEY) == replace(BEAT, postgresql=None)


def test_a_node_without_recent_facts_sends_no_state() -> None:
    unknown = replace(BEAT, postgresql=None)
    assert "pg" not in values_of(unknown)
    assert decode(encode(unknown, KEY), KEY) == unknown
