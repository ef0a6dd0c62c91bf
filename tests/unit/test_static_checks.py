"""Linters check the whole checkout, and the shell scripts of the rendered debian/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pgpool_deb.builds import plan
from pgpool_deb.builds.plan import BuildRequest
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.packages.debianize import write
from pgpool_deb.packages.source_package import SourcePackage
from pgpool_deb.upstream.pins import Pins
from pgpool_deb.upstream.sources import Source

HERE = Project(Path(__file__).parents[2])
PACKAGES = ("packaging/pgpool_deb", "scripts/pgpool_cluster")
SHELL = re.compile(rb"#! ?/(?:usr/)?bin/(?:env )?(?:ba|da)?sh\b")


def own_files() -> list[Path]:
    """Return the files that are in version control or not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=HERE.path, capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for name in names if name and (path := HERE.path / name).is_file()]


def shell_scripts(files: Sequence[Path]) -> list[Path]:
    """Return the shell scripts among files; a template is not a script yet."""
    return [path for path in files if path.suffix != ".j2" and SHELL.match(path.read_bytes()[:40])]


def packages() -> Iterator[SourcePackage]:
    """Yield pgpool2 of every pinned version for every release, and the cluster package for every release."""
    table = ReleaseTable.load(HERE.releases)
    names = tuple(release.name for release in table.releases)
    for number, pin in enumerate(Pins.load(HERE.sources).pins):
        source = Source(pin.version, HERE.path, "gz", pin.sha256, True, pin.date, "a pin", False)
        for cell in plan.cells(BuildRequest(releases=names), table, source, "", HERE):
            yield from cell.packages if number == 0 else [cell.pgpool2]


def passes(*command: str | Path) -> None:
    """Check that the command succeeds; otherwise the test shows its output."""
    answer = subprocess.run(list(map(str, command)), cwd=HERE.path, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.fail(f"{command[0]} exits with {answer.returncode}\n{answer.stdout}{answer.stderr}", pytrace=False)


def module(name: str) -> tuple[str, str, str]:
    return sys.executable, "-m", name


def test_ruff_finds_nothing() -> None:
    passes(*module("ruff"), "check", "--no-fix", "--output-format=concise", ".")


def test_ruff_format_changes_nothing() -> None:
    passes(*module("ruff"), "format", "--check", ".")


def test_mypy_finds_nothing() -> None:
    passes(*module("mypy"), "--strict")


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml in a checkout."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    environment = os.environ | {"PYTHONPATH": "packaging:scripts"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_imports_keep_to_the_floors() -> None:
    answer = lint_imports(HERE.path)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture
def copied_packages(tmp_path: Path) -> Path:
    """A copy of both packages with the contracts on their imports."""
    shutil.copy(HERE.path / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(HERE.path / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("scripts/pgpool_cluster/ground/plain.py", "import pgpool_deb", "pgpool_cluster.ground.plain -> pgpool_deb"),
        ("packaging/pgpool_deb/builds/plan.py", "import pgpool_cluster", "pgpool_deb.builds.plan -> pgpool_cluster"),
        (
            "scripts/pgpool_cluster/decision/decide.py",
            "from pgpool_cluster.operations import act",
            "pgpool_cluster.decision.decide -> pgpool_cluster.operations.act",
        ),
        (
            "packaging/pgpool_deb/ground/releases.py",
            "from pgpool_deb.builds import plan",
            "pgpool_deb.ground.releases -> pgpool_deb.builds.plan",
        ),
        ("packaging/pgpool_deb/builds/farm.py", "from . import workshop", ".workshop -> .farm"),
        ("scripts/pgpool_cluster/homeless.py", "", "homeless"),
        ("packaging/pgpool_deb/homeless.py", "", "homeless"),
    ],
)
def test_a_forbidden_import_is_found(copied_packages: Path, module: str, line: str, complaint: str) -> None:
    with (copied_packages / module).open("a") as stream:
        stream.write(f"\n{line}\n")
    answer = lint_imports(copied_packages)
    assert answer.returncode == 1
    assert complaint in answer.stdout + answer.stderr


def test_codespell_finds_nothing() -> None:
    passes(*module("codespell_lib"), *own_files())


def test_shellcheck_finds_nothing_in_the_checkout() -> None:
    scripts = shell_scripts(own_files())
    assert HERE.path / "invoke" in scripts
    assert HERE.path / ".ci" / "run" in scripts
    passes("shellcheck", *scripts)


@pytest.mark.parametrize("package", list(packages()), ids=lambda made: f"{made.name}-{made.debian_version}")
def test_shellcheck_finds_nothing_in_the_rendered_packaging(package: SourcePackage, tmp_path: Path) -> None:
    write(package.files, tmp_path / "tree")
    scripts = shell_scripts([path for path in (tmp_path / "tree").rglob("*") if path.is_file()])
    assert tmp_path / "tree" / "debian" / f"{package.source}.postinst" in scripts
    passes("shellcheck", *scripts)


def registry_hosts() -> set[str]:
    """Return the hosts that this machine's apt and pip are configured for."""
    apt = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    pip = [*module("pip"), "config", "list"]
    answers = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in (apt, pip)]
    return {host for host in re.findall(r"[a-z+]+://(?:[^@/\s']*@)?([^/\s':]+)", "\n".join(answers)) if "." in host}


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = registry_hosts()
    assert hosts
    guilty = [
        f"{path.relative_to(HERE.path)}: {host}"
        for path in own_files()
        for host in hosts
        if host.encode() in path.read_bytes()
    ]
    assert guilty == []
