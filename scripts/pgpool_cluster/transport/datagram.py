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
from typing import Any

from ..decision.facts.facts import Postgresql
from ..decision.liveness.heartbeat import Echo, Heartbeat
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
    """Return the datagram of a heartbeat, which is shorter than LONGEST_BYTES."""
    values: dict[str, object] = {
        "v": FORMAT,
        "from": beat.sender,
        "to": beat.receiver,
        "inc": beat.incarnation,
        "seq": beat.sequence,
        "echo": [[echo.incarnation, echo.sequence] for echo in beat.echoes],
    }
    body = _ENCODER.encode(values | ({"pg": beat.postgresql} if beat.postgresql else {})).encode("ascii")
    return hmac.digest(key, body, "sha256") + body


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
    echoes = values["echo"]
    if not isinstance(echoes, list):
        raise _no("echo", echoes)
    return Heartbeat(
        sender=_name(values["from"], "from"),
        receiver=_name(values["to"], "to"),
        incarnation=number(values["inc"], "inc"),
        sequence=number(values["seq"], "seq"),
        echoes=tuple(_echo(one) for one in echoes[:_MOST_ECHOES]),
        postgresql=_postgresql(values.get("pg")),
    )


def _no(name: str, value: object) -> ValueError:
    return ValueError(f"{name} cannot be {reprlib.repr(value)}")


def number(value: object, name: str) -> int:
    """Return a number from 0 to 2^64 - 1; raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value < _BIGGEST:
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
