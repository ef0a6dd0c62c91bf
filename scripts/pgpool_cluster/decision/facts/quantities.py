"""Read sizes and times in the notation of PostgreSQL's parameters. Pure."""

from __future__ import annotations

import re

_SIZES = {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
_TIMES = {"us": 0.001, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_QUANTITY = re.compile(r"(-?[0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)")


def quantity(text: str, unit: str) -> float | None:
    """Return a size in bytes, a time in milliseconds, or a plain number; None for any other text.

    `unit`: the unit of a number that has none, in the notation of pg_settings: `8kB`, `MB`, `ms`, or "".
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        return None
    number, given = float(match[1]), match[2].lower()
    times = re.match(r"[0-9]*", unit)
    factor = times[0] if times else ""
    scale = {**_SIZES, **_TIMES}
    if given:
        return number * scale[given] if given in scale else None
    return number if number < 0 else number * int(factor or 1) * scale.get(unit.lower()[len(factor) :], 1)
