"""Facts as JSON, for the way between two nodes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import reprlib
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from . import terms
from .facts import Lsn, NodeFacts, Switch

Json = dict[str, Any]
_ALWAYS = ("node", "postgresql", "databases", "slots", "history", "pgpool")
"""What every version has said; of what came later, an older one says nothing."""


def encode(facts: NodeFacts) -> Json:
    """Return what `decode` takes."""
    return {field.name: _plain(getattr(facts, field.name)) for field in dataclasses.fields(facts)}


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, Switch):
        return [value.timeline, str(value.lsn)]
    if isinstance(value, tuple | frozenset):
        parts = [_plain(one) for one in value]
        return sorted(parts) if isinstance(value, frozenset) else parts
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def decode(values: Json) -> NodeFacts:
    """Return the facts; unknown names, as of a newer version, are left out.

    Raises ValueError for what is no fact, values of another type than theirs included: a decision rests on them.
    """
    if not isinstance(values, dict) or any(name not in values for name in _ALWAYS):
        raise ValueError("no facts of a node")
    found = _read(NodeFacts, values, "facts")
    assert isinstance(found, NodeFacts)  # noqa: S101 - for the type checker
    told = {
        "term": found.term, "led": found.led, "restart": found.restart, "users": found.users,
        "excuse": max(found.excuse.place), "excuse's serial": min(found.excuse.place),
    }  # fmt: skip
    for name, number in told.items():
        if not terms.plausible(number):
            raise ValueError(f"{name}: no cluster can have come to such a number")
    return found


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list that another node tells; what is none has none."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def number(value: object) -> float | None:
    """Return a number that another node tells, None for what is none."""
    with contextlib.suppress(ValueError):
        return _float(float, value, "number")
    return None


def _read(kind: Any, value: Any, name: str) -> Any:  # noqa: ANN401 - a type, and JSON
    """Return `value` as one of type `kind`, which is that of the fact `name`; raises ValueError."""
    if get_origin(kind) is UnionType:
        others = [one for one in get_args(kind) if one is not NoneType]
        return None if value is None else _read(others[0], value, name)
    if kind in _READ or get_origin(kind) in _READ:
        return _READ[get_origin(kind) or kind](kind, value, name)
    if issubclass(kind, StrEnum) and isinstance(value, str):
        return kind(value)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        make: Any = kind
        try:
            return make(**{one: _read(type_, value[one], one) for one, type_ in _hints(make).items() if one in value})
        except TypeError as error:  # one is missing
            raise ValueError(f"{name}: {error}") from error
    raise _no(value, name)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


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
