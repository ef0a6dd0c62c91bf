"""Test levels run as requested, cheapest first; those that take an hour run only on request."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgpool_deb.boxes import machine
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.runs import testing
from pgpool_deb.runs.testing import LevelsRequest, parse_levels, split_report, stages_of


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
    ("levels", "stages"),
    [
        (("unit", "package", "install", "cluster"), ((("unit",),), (("package", "install"), ("cluster",)))),
        (("package", "cluster"), ((("package",), ("cluster",)),)),
        (("cluster",), ((("cluster",),),)),
        (("unit", "reproducible"), ((("unit",),), (("reproducible",),))),
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
    """Make a checkout. The tests of package and cluster wait for each other, and so do the two tests of unit."""
    here = Path(__file__).parents[3]
    meetings = (("package", "package", "cluster"), ("cluster", "cluster", "package"))
    for level, own, other in (*meetings, ("unit", "one", "two"), ("unit", "two", "one")):
        folder = tmp_path / "tests" / level
        folder.mkdir(parents=True, exist_ok=True)
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


CODE = """
def sign(number):
    if number < 0:
        return -1
    return 1
"""
SIGN = """
import sys
sys.path.insert(0, "scripts")
from pgpool_cluster.sign import sign
def test_sign():
    assert sign(2) == 1
"""


def test_unit_tests_run_at_once_and_their_coverage_is_printed(
    checkout: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    package = checkout.path / "scripts" / "pgpool_cluster"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sign.py").write_text(CODE)
    (checkout.path / "tests" / "unit" / "test_sign.py").write_text(SIGN)
    (checkout.path / "pyproject.toml").write_text(
        '[tool.coverage.run]\nbranch = true\nsource = ["scripts/pgpool_cluster"]\ndata_file = "dist/.coverage"\n'
    )
    assert testing.run(checkout, LevelsRequest(("unit",), coverage=True)) is ExitStatus.GOOD
    said = capfd.readouterr()
    text = said.out + said.err
    assert "unit: 3 tests" in text
    assert [line.split() for line in text.splitlines() if line.endswith("sign.py")] == [
        ["50", "%", "75", "%", "sign.py"]
    ]


BROKEN_MIRROR = """
import pytest
from pgpool_deb.ground.errors import MachineError
@pytest.fixture
def root():
    raise MachineError("the mirror is away", hint="wait")
def test_one(root): pass
def test_two(root): pass
def test_three(): assert False
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_machines_fault_outweighs_a_failure_even_if_a_worker_reports_it(tmp_path: Path, workers: str) -> None:
    here = Path(__file__).parents[3]
    (tmp_path / "test_it.py").write_text(BROKEN_MIRROR)
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", f"-c{here / 'pyproject.toml'}", f"-n{workers}"]
    paths = os.pathsep.join(map(str, (here, here / "packaging", here / "scripts")))
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == testing.MACHINE_FAILED, answer.stdout + answer.stderr
    assert answer.stdout.count("the machine failed: the mirror is away") == 1


def test_coverage_without_the_unit_level_is_wrong_usage(checkout: Project) -> None:
    with pytest.raises(UsageError, match="--coverage requires the unit level"):
        testing.run(checkout, LevelsRequest(("package",), coverage=True))


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
