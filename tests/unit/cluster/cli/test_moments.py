"""The moments that an administrator types."""

from __future__ import annotations

import datetime

import pytest

from pgpool_cluster.cli.moments import parse
from pgpool_cluster.ground.errors import UsageError

NOW = datetime.datetime(2026, 11, 30, 7, 30).astimezone()


def local(*parts: int) -> float:
    return datetime.datetime(*parts).astimezone().timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90m", NOW.timestamp() - 5400), ("3h", NOW.timestamp() - 10800), ("2d", NOW.timestamp() - 172800),
        ("999999d", 0.0), ("03:15", local(2026, 11, 30, 3, 15)), ("03:15:20", local(2026, 11, 30, 3, 15, 20)),
        ("07:30", NOW.timestamp()), ("22:00", local(2026, 11, 29, 22)),
        ("2026-11-29", local(2026, 11, 29)), (" 2026-11-29 22:00 ", local(2026, 11, 29, 22)),
        ("2026-11-29T22:00:00+00:00", 1795989600.0),
    ],
)  # fmt: skip
def test_a_moment_is_ago_today_or_complete(text: str, moment: float) -> None:
    assert parse(text, NOW.timestamp()) == moment


@pytest.mark.parametrize("text", ["", "noon", "25:00", "3 h", "-3h", "2026-13-01", "9999999h"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as refused:
        parse(text, NOW.timestamp())
    assert "22:00" in refused.value.hint
