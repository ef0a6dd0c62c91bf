"""Test levels run as requested, cheapest first; those that take an hour run only on request."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgpool_deb import machine, testing
from pgpool_deb.errors import ExitStatus, UsageError
from pgpool_deb.project import Project
from pgpool_deb.testing import LevelsRequest, lanes_of, parse_levels, split_report


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        (None, ("unit", "package", "install", "cluster")),
        ("install, unit", ("unit", "install")),
        ("upstream", ("upstream",)),
        ("upstream,package", ("package", "upstream")),
        ("reproducible,fuzz", ("fuzz", "reproducible")),
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
    ("levels", "lanes"),
    [
        (("unit", "package", "install", "cluster"), (("unit", "package", "install"), ("cluster",))),
        (("package", "cluster"), (("package",), ("cluster",))),
        (("cluster",), (("cluster",),)),
        (("unit", "reproducible"), (("unit",), ("reproducible",))),
    ],
)
def test_levels_are_run_in_lanes(levels: tuple[str, ...], lanes: tuple[tuple[str, ...], ...]) -> None:
    assert lanes_of(levels) == lanes


MEETS = """
import pathlib, time
def test_it(request):
    place = pathlib.Path(__file__).parents[1]
    (place / "{own}-runs").touch()
    end = time.monotonic() + 30
    while not (place / "{other}-runs").exists():
        assert time.monotonic() < end, "the other level does not run"
        time.sleep(0.05)
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a checkout whose levels package and cluster each have a test that waits for the other's."""
    here = Path(__file__).parents[2]
    for own, other in (("package", "cluster"), ("cluster", "package")):
        folder = tmp_path / "tests" / own
        folder.mkdir(parents=True)
        (folder / f"test_{own}.py").write_text(MEETS.format(own=own, other=other))
    (tmp_path / "packaging").mkdir()
    shutil.copy(here / "packaging" / "releases.toml", tmp_path / "packaging")
    (tmp_path / "tests" / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        '    parser.addoption("--releases")\n'
        '    parser.addoption("--brief", action="store_true")\n'
    )
    monkeypatch.setattr(machine, "require", lambda *_, **__: None)
    return Project(tmp_path)


def test_lanes_run_in_parallel_and_each_level_is_reported(checkout: Project, capfd: pytest.CaptureFixture[str]) -> None:
    assert testing.run(checkout, LevelsRequest(("package", "cluster"))) is ExitStatus.GOOD
    output = capfd.readouterr()
    text = output.out + output.err
    assert text.count("1 passed") == 2
    assert "package: 1 tests" in text
    assert "cluster: 1 tests" in text
    written = {path.name for path in checkout.dist.iterdir()}
    assert written == {"test-package.xml", "test-cluster.xml", "test-package.log"}


def test_a_failure_in_a_background_lane_fails_the_run(checkout: Project, capfd: pytest.CaptureFixture[str]) -> None:
    with (checkout.path / "tests" / "package" / "test_package.py").open("a") as stream:
        stream.write("    assert request is None, 'it fails'\n")
    assert testing.run(checkout, LevelsRequest(("package", "cluster"))) is ExitStatus.FAILED
    output = capfd.readouterr()
    assert "it fails" in output.out + output.err


def test_a_background_lane_ends_if_the_run_is_interrupted(checkout: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        end = time.monotonic() + 30
        while not (checkout.path / "tests" / "package-runs").exists() and time.monotonic() < end:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        testing.run(checkout, LevelsRequest(("package", "cluster")))
    assert not _running(checkout)


def _running(checkout: Project) -> list[str]:
    needle = str(checkout.path).encode()
    result = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if needle in path.read_bytes() and sys.executable.encode() in path.read_bytes():
                result.append(str(path))
        except OSError:
            continue
    return result
