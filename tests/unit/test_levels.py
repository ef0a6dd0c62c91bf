"""Which levels of tests run: what is asked for, cheapest first, and not what takes an hour unless it is named."""

from __future__ import annotations

import pytest

from pgpool_deb.errors import UsageError
from pgpool_deb.testing import parse_levels


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (None, ("unit", "package", "install", "cluster")),
        ("install, unit", ("unit", "install")),
        ("upstream", ("upstream",)),
        ("upstream,package", ("package", "upstream")),
    ],
)
def test_levels_are_read_from_the_command_line(text: str | None, levels: tuple[str, ...]) -> None:
    assert parse_levels(text) == levels


@pytest.mark.parametrize("text", ["", "units", "unit,,install"])
def test_a_level_that_there_is_not_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="unknown level") as caught:
        parse_levels(text)
    assert "upstream" in str(caught.value.hint)
