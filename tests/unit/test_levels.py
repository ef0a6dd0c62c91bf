"""Which levels of tests run: what is asked for, cheapest first, and not what takes an hour unless it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_deb.errors import UsageError
from pgpool_deb.testing import parse_levels, split_report


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


def test_each_level_tells_how_long_it_took(tmp_path: Path) -> None:
    report = tmp_path / "whole.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.unit.test_a" name="one" time="59.5"/>'
        '<testcase classname="tests.unit.test_a" name="two" time="62"/>'
        '<testcase classname="tests.package.test_b" name="three" time="3605"/></testsuite></testsuites>'
    )
    assert split_report(report, ("unit", "package"), tmp_path) == [
        "unit: 2 tests, 2 min 1 s",
        "package: 1 tests, 60 min 5 s",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"test-unit.xml", "test-package.xml"}
