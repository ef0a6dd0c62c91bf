"""Test levels run as requested, cheapest first; those that take an hour run only on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.runs import testing
from pgpool_deb.runs.testing import LevelsRequest, parse_levels, split_report, stages_of

HERE = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (None, ("unit", "package", "install", "cluster")),
        ("install, unit", ("unit", "install")),
        ("upstream", ("upstream",)),
        ("upstream,package", ("package", "upstream")),
        ("reproducible,fuzz", ("fuzz", "reproducible")),
        ("fuzz,model", ("model", "fuzz")),
    ],
)
def test_levels_are_parsed(text: str | None, levels: tuple[str, ...]) -> None:
    assert parse_levels(text) == levels


@pytest.mark.parametrize("text", ["", "units", "unit,,install"])
def test_an_unknown_level_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="unknown level") as caught:
        parse_levels(text)
    assert "upstream" in str(caught.value.hint)


def test_each_level_reports_its_time(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("levels", "stages"),
    [
        (("unit", "package", "install", "cluster"), ((("unit",),), (("package", "install"), ("cluster",)))),
        (("package", "cluster"), ((("package",), ("cluster",)),)),
        (("cluster",), ((("cluster",),),)),
        (("unit", "reproducible"), ((("unit",),), (("reproducible",),))),
        (("package", "cluster", "model"), ((("package", "model"), ("cluster",)),)),
        (("unit",), ((("unit",),),)),
    ],
)
def test_the_unit_level_is_run_first_and_the_others_in_lanes(
    levels: tuple[str, ...], stages: tuple[tuple[tuple[str, ...], ...], ...]
) -> None:
    assert stages_of(levels) == stages


def test_the_time_of_a_level_whose_tests_ran_at_once_is_that_of_the_run(tmp_path: Path) -> None:
    report = tmp_path / "whole.xml"
    report.write_text(
        '<testsuites><testsuite time="70.5"><testcase classname="tests.unit.test_a" name="one" time="59.5"/>'
        '<testcase classname="tests.unit.test_a" name="two" time="62"/></testsuite></testsuites>'
    )
    assert split_report(report, ("unit",), tmp_path) == ["unit: 2 tests, 1 min 10 s"]


def test_coverage_without_the_unit_level_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--coverage requires the unit level"):
        testing.run(Project(HERE), LevelsRequest(("package",), coverage=True))


def test_the_model_level_needs_spin_and_no_root() -> None:
    names = {tool.package for tool in testing.tools_of(("model",))}
    assert names == {"spin", "gcc", "libc6-dev"}
    assert "spin" not in {tool.package for tool in testing.tools_of(testing.LEVELS)}
