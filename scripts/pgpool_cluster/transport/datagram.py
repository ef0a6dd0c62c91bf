"""Encode heartbeats as authenticated datagrams, and decode them.

A datagram is an HMAC-SHA256 and the JSON object that it authenticates. A program without the key cannot make one, and
decoding parses nothing before the HMAC has been verified.

Nodes of two versions exchange heartbeats during an upgrade, so the format only grows: a receiver ignores unknown keys,
a key that may be missing has a default, and an unknown state of PostgreSQL is read as None.
"""

from __future__ import annotations

import hmac
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from ..decision import terms
from ..decision.facts import Lsn, Postgresql
from ..decision.heartbeat import Echo, Heartbeat, NodeState
from ..ground import plain

FORMAT = 1
LONGEST_BYTES = 1200
"""Limit of a datagram, which fits into one packet of any network (IPv6 requires 1280 bytes with all headers)."""
_MAC_BYTES = 32
_MOST_ECHOES = 4
_POSTGRESQL = {str(state): state for state in Postgresql}
_BIGGEST = 2**64
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def encode(beat: Heartbeat, key: bytes) -> bytes:
    """Return the datagram of a heartbeat.

    If the names in `lost` do not fit into LONGEST_BYTES, the last ones are omitted. Other nodes then assume that these
    links are up. Of 128 nodes with names of 63 letters, about ten fit.
    """
    lost = list(beat.lost)
    while True:
        body = _body(beat, lost)
        if len(body) <= LONGEST_BYTES - _MAC_BYTES or not lost:
            return hmac.digest(key, body, "sha256") + body
        del lost[-1]


def _body(beat: Heartbeat, lost: Sequence[str]) -> bytes:
    values: dict[str, object] = {
        "v": FORMAT,
        "from": beat.sender,
        "to": beat.receiver,
        "inc": beat.incarnation,
        "seq": beat.sequence,
        "echo": [[echo.incarnation, echo.sequence] for echo in beat.echoes],
        "lost": lost,
        "state": _plain(beat.state),
    }
    return _ENCODER.encode(values).encode("ascii")


def _plain(state: NodeState) -> dict[str, object]:
    position = None if state.position is None else state.position.bytes
    values = {
        "term": state.term, "led": state.led, "pg": state.postgresql, "rec": state.in_recovery,
        "follows": state.follows, "wal": state.streaming, "lsn": position, "tl": state.timeline, "pool": state.pool,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def decode(data: bytes, key: bytes) -> Heartbeat | None:
    """Return the heartbeat of a datagram that was made with `key`; None if it was not, or is too long.

    Raises ValueError if the datagram is authentic, but is no heartbeat, or has an impossible value.
    """
    if not _MAC_BYTES < len(data) <= LONGEST_BYTES:
        return None
    body = data[_MAC_BYTES:]
    if not hmac.compare_digest(hmac.digest(key, body, "sha256"), data[:_MAC_BYTES]):
        return None
    try:
        return _read(json.loads(body))
    except (KeyError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"no heartbeat: {error!r}") from error


def _read(values: Any) -> Heartbeat:  # noqa: ANN401 - JSON
    if not isinstance(values, dict):
        raise _no("a heartbeat", values)
    number(values["v"], "v")
    echoes, lost, state = values["echo"], values["lost"], values["state"]
    if not isinstance(echoes, list) or not isinstance(lost, list) or not isinstance(state, dict):
        raise _no("echo, lost or state", [echoes, lost, state])
    return Heartbeat(
        sender=_name(values["from"], "from"),
        receiver=_name(values["to"], "to"),
        incarnation=number(values["inc"], "inc"),
        sequence=number(values["seq"], "seq"),
        echoes=tuple(_echo(one) for one in echoes[:_MOST_ECHOES]),
        lost=tuple(_name(one, "lost") for one in lost),
        state=_state(state),
    )


def _state(values: Mapping[str, Any]) -> NodeState:
    return NodeState(
        term=_term(values.get("term", 0), "term"),
        led=_term(values.get("led", 0), "led"),
        postgresql=_postgresql(values.get("pg")),
        in_recovery=_flag(values.get("rec", False), "rec"),
        follows=None if values.get("follows") is None else _name(values["follows"], "follows"),
        streaming=_flag(values.get("wal", False), "wal"),
        position=None if values.get("lsn") is None else Lsn(number(values["lsn"], "lsn")),
        timeline=None if values.get("tl") is None else number(values["tl"], "tl"),
        pool=None if values.get("pool") is None else _flag(values["pool"], "pool"),
    )


def _no(name: str, value: object) -> ValueError:
    return ValueError(f"{name} cannot be {reprlib.repr(value)}")


def number(value: object, name: str) -> int:
    """Return a number from 0 to 2^64 - 1; raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value < _BIGGEST:
        raise _no(name, value)
    return value


def _term(value: object, name: str) -> int:
    found = number(value, name)
    if not terms.plausible(found):
        raise _no(name, value)
    return found


def _flag(value: object, name: str) -> bool:
    if type(value) is not bool:
        raise _no(name, value)
    return value


def _name(value: object, name: str) -> str:
    if type(value) is not str or len(value) > plain.LONGEST_NODE_NAME:
        raise _no(name, value)
    return value


def _postgresql(value: object) -> Postgresql | None:
    if value is not None and type(value) is not str:
        raise _no("pg", value)
    return _POSTGRESQL.get(value) if isinstance(value, str) else None


def _echo(value: object) -> Echo:
    match value:
        case [incarnation, sequence]:
            return Echo(number(incarnation, "echo"), number(sequence, "echo"))
    raise _no("echo", value)
