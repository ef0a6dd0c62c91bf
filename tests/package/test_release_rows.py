"""A further release, or several PostgreSQL majors in one cell, need only a row of releases.toml.

These tests run with `--all` or if sid is tested, because each row is built from nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from debian.debfile import DebFile
from tests.package.builds import copy_of, started

from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project

BULLSEYE = """
[release.bullseye]
number = 11
state = "archived"
postgresql = [13]
suites = ["bullseye"]
"""
TWO_MAJORS = """
[release.sid]
number = 15
state = "testing"
distribution = "unstable"
postgresql = [18, 19]
suites = ["sid"]
check_valid_until = false

[[release.sid.extra]]
uri = "mirror"
suites = ["experimental"]
priority = 500
packages = ["postgresql*", "libpq*"]
"""
ROWS = {"bullseye": (BULLSEYE, [13]), "sid": (TWO_MAJORS, [18, 19])}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    selected = "sid" in str(metafunc.config.getoption("--releases")).split(",")
    apart = pytest.mark.skipif(not selected, reason="it builds from nothing: with --all, or where sid is under test")
    metafunc.parametrize("name", [pytest.param(name, marks=apart) for name in ROWS])


def test_a_further_release_needs_only_a_row(
    name: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, majors = ROWS[name]
    table = tmp_path / "releases.toml"
    table.write_text(f"[packaging]\nrevision = 50\ndate = 2026-11-22\n{row}", encoding="utf-8")
    monkeypatch.setenv("PGPOOL_DEB_RELEASES", str(table))
    checkout = copy_of(project.path, tmp_path / "checkout")
    with started(checkout, Cache.open(), "--release", name) as process:
        output, _ = process.communicate()
    assert process.returncode == ExitStatus.GOOD, output
    (cell,) = json.loads((checkout / "dist" / "summary.json").read_text(encoding="utf-8"))["cells"]
    assert cell["majors"] == majors
    for major in majors:
        (module,) = (checkout / "dist" / name).glob(f"postgresql-{major}-pgpool2_*.deb")
        with DebFile(str(module)) as package:
            names = [member.removeprefix("./") for member in package.data.tgz().getnames()]
        assert f"usr/lib/postgresql/{major}/lib/pgpool-recovery.so" in names
