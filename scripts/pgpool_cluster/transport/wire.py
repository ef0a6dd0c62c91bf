"""Convert frozen dataclasses to JSON and back, for messages between two nodes.

Reading checks every value against the type of its field before other code uses it. A field of type
`Annotated[X, read]` has a further check: `read` returns the value, or raises.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import reprlib
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..decision.facts import terms
from ..decision.facts.facts import Lsn, NodeFacts, Switch
from ..decision.facts.pause import Pause
from ..ground.check import Check

T = TypeVar("T")
_ALWAYS = ("node", "postgresql", "databases", "slots", "history", "pgpool")
"""Fields that every version sends. An older version does not send fields that were added later."""


def fields(value: object) -> dict[str, object]:
    """Return a dataclass as a JSON object with one key per field."""
    assert dataclasses.is_dataclass(value)  # noqa: S101 - for the type checker
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: object) -> object:  # noqa: PLR0911 - one return a kind
    """Return a value as its JSON type."""
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, Switch):
        return [value.timeline, str(value.lsn)]
    if isinstance(value, Check):
        return value.json
    if isinstance(value, frozenset):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return fields(value) if dataclasses.is_dataclass(value) else value


def read(kind: type[T], values: object, name: str) -> T:
    """Return the dataclass `kind` from an object that `fields` returned; ignore unknown keys, as of a newer version.

    Errors contain `name`. Raises ValueError if a value is missing or has another type than its field, and the error of
    an `Annotated` check, which may be a ClusterError.
    """
    found = _read(kind, values, name)
    assert isinstance(found, kind)  # noqa: S101 - for the type checker
    return found


def _facts(values: object) -> NodeFacts:
    """Read NodeFacts. Raises ValueError, also for implausible numbers (terms.py), because decisions depend on them."""
    if not isinstance(values, dict) or any(name not in values for name in _ALWAYS):
        raise ValueError("no facts of a node")
    found: NodeFacts = _dataclass(NodeFacts, values, "facts")
    numbers = {
        "term": found.term, "led": found.led, "restart": found.restart, "users": found.users,
        "loss": found.loss,
        "origins": max((one.term for one in found.origins), default=0),
        "excuse": max(found.excuse.place), "excuse's serial": min(found.excuse.place),
    }  # fmt: skip
    for name, number in numbers.items():
        if not terms.plausible(number):
            raise ValueError(f"{name}: no cluster can have reached such a number")
    return found


def _pause(values: object) -> Pause:
    """Read a Pause. Raises ValueError, also for one that no agent can have recorded."""
    found: Pause = _dataclass(Pause, values, "pause")
    if not found.plausible:
        raise ValueError("no agent can have recorded such a pause")
    return found


def _read(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - a type, and JSON
    """Return `value` as a value of type `kind`, the type of the field `name`; raises ValueError."""
    origin = get_origin(kind)
    if origin is Annotated:
        return get_args(kind)[1](value)
    if origin in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not NoneType]
        return None if value is None else _read(others[0], value, name)
    if kind in _READ or origin in _READ:
        return _READ[origin or kind](kind, value, name)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, name)
    if issubclass(kind, StrEnum) and isinstance(value, str):
        return kind(value)
    raise _no(value, name)


def _dataclass(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - a type, and JSON
    if not isinstance(value, dict):
        raise _no(value, name)
    try:
        return kind(**{one: _read(type_, value[one], one) for one, type_ in _hints(kind).items() if one in value})
    except TypeError as error:  # a field is missing
        raise ValueError(f"{name}: {error}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _no(value: object, name: str) -> ValueError:
    return ValueError(f"{name} cannot be {reprlib.repr(value)}")


def _scalar(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - a type, and JSON
    if type(value) is not kind:
        raise _no(value, name)
    return value


def _float(_: Any, value: Any, name: str) -> float:  # noqa: ANN401 - a type, and JSON
    with contextlib.suppress(OverflowError):
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    raise _no(value, name)


def _lsn(_: Any, value: Any, name: str) -> Lsn:  # noqa: ANN401 - a type, and JSON
    return Lsn.parse(_scalar(str, value, name))


def _switch(_: Any, value: Any, name: str) -> Switch:  # noqa: ANN401 - a type, and JSON
    if not isinstance(value, list) or len(value) != 2:
        raise _no(value, name)
    return Switch(_scalar(int, value[0], name), _lsn(Lsn, value[1], name))


def _many(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - a type, and JSON
    if not isinstance(value, list):
        raise _no(value, name)
    return get_origin(kind)(_read(get_args(kind)[0], one, name) for one in value)


def _mapping(kind: Any, value: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - a type, and JSON
    if not isinstance(value, dict):
        raise _no(value, name)
    return {one: _read(get_args(kind)[1], part, name) for one, part in value.items()}


_READ = {
    NodeFacts: lambda _, value, __: _facts(value),
    Pause: lambda _, value, __: _pause(value),
    Check: lambda _, value, __: Check.of(value),
    str: _scalar,
    int: _scalar,
    bool: _scalar,
    float: _float,
    Lsn: _lsn,
    Switch: _switch,
    tuple: _many,
    frozenset: _many,
    Mapping: _mapping,
}
