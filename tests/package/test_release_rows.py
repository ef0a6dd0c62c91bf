"""A further release, and several PostgreSQL majors in one cell, are a row of releases.toml and nothing else.

With `--all`, or where sid is among the releases under test: each row is built from nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from debian.debfile import DebFile

from pgpool_deb.project import Project

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
    metafunc.parametrize("name", list(ROWS) if selected else [])


@pytest.fixture
def checkout(project: Project, tmp_path: Path) -> Path:
    """A copy of this checkout, so that its dist/ stays as it is."""
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "dist", "__pycache__")
    shutil.copytree(project.path, copy, ignore=ignored, symlinks=True)
    return copy


def test_one_row_is_all_that_it_takes(name: str, checkout: Path, tmp_path: Path) -> None:
    row, majors = ROWS[name]
    table = tmp_path / "releases.toml"
    table.write_text(f"[packaging]\nrevision = 50\ndate = 2026-11-22\n{row}", encoding="utf-8")
    run = "import sys; from pgpool_deb.program import main; main(sys.argv.pop(1))"
    command = [sys.executable, "-c", run, str(checkout), "build-deb", "--release", name]
    env = {**os.environ, "PGPOOL_DEB_RELEASES": str(table), "PYTHONPATH": str(checkout / "packaging")}
    answer = subprocess.run(command, env=env, cwd=checkout, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (cell,) = json.loads((checkout / "dist" / "summary.json").read_text(encoding="utf-8"))["cells"]
    assert cell["majors"] == majors
    for major in majors:
        (module,) = (checkout / "dist" / name).glob(f"postgresql-{major}-pgpool2_*.deb")
        with DebFile(str(module)) as package:
            names = [member.removeprefix("./") for member in package.data.tgz().getnames()]
        assert f"usr/lib/postgresql/{major}/lib/pgpool-recovery.so" in names
