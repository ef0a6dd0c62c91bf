"""A publish that is killed at a system call leaves the old or the new repository, and apt takes either."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import FIRST, V1, V2

from pgpool_deb.errors import ExitStatus
from pgpool_deb.project import Project
from pgpool_deb.repository import check, publish
from pgpool_deb.small_packages import upload

CHANGING = (
    "openat", "write", "rename", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "unlink",
    "unlinkat", "rmdir", "fsync", "chmod", "fchmod", "fchmodat", "sendfile", "copy_file_range",
)  # fmt: skip
"""System calls that change what others see of a file system, or begin to."""
PACKAGING = str(Path(__file__).parents[3] / "packaging")
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {packaging!r})
from pgpool_deb.project import Project
from pgpool_deb.repository import publish
print(">>> begins", flush=True)
publish.run(Project(Path(sys.argv[1])), publish.Request(Path(sys.argv[2]), unproved=True, install=False), print)
"""
EVERY = 40
"""Where the tests are brief, every so many calls one is tried."""
BEGINS = ">>> begins"


def publishing(checkout: Path, repository: Path, *strace: str) -> list[str]:
    program = [sys.executable, "-c", PROGRAM.format(packaging=PACKAGING), str(checkout), str(repository)]
    return ["strace", "-qq", "-o", f"{repository}.trace", *strace, *program]


def calls(trace: str) -> list[tuple[str, int]]:
    """Return the calls of a publish that change something: their names, and which of that name each is."""
    found, count, begun = [], Counter[str](), False
    for line in trace.splitlines():
        name = line.partition("(")[0]
        count[name] += 1
        begun = begun or BEGINS in line
        reads = name == "openat" and not re.search("O_CREAT|O_TRUNC|O_WRONLY|O_RDWR", line)
        if begun and not reads and BEGINS not in line:
            found.append((name, count[name]))
    return found


def test_a_publish_that_is_killed_at_any_call_leaves_one_whole_state(
    checkout: Project,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time apt reads what is left, and the next publish does what the killed one could not."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST))
    before, repo = tmp_path / "before", tmp_path / "repo"
    publish.run(checkout, publish.Request(repo, unproved=True, install=False), print)
    repo.rename(before)
    upload(checkout.dist / "trixie", V2)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 1))

    def run(*strace: str) -> int:
        shutil.rmtree(repo, ignore_errors=True)
        shutil.copytree(before, repo, symlinks=True)
        return subprocess.run(publishing(checkout.path, repo, *strace), capture_output=True, check=False).returncode

    assert run("-e", f"trace={','.join(CHANGING)}") == 0
    tried = calls(Path(f"{repo}.trace").read_text(encoding="utf-8", errors="replace"))
    if request.config.getoption("--brief"):
        tried = tried[::EVERY]
    seen: Counter[str] = Counter()
    for name, number in tried:
        assert run("-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}") != 0, (name, number)
        found = Apt.new(tmp_path / "apt", repo).versions("pgpool2")
        assert found in ({V1}, {V1, V2}), (name, number)
        seen["new" if V2 in found else "old"] += 1
        lines: list[str] = []
        assert check.run(str(repo), lines.append, install=False) is ExitStatus.GOOD, (name, number, lines)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST + 2))
    publish.run(checkout, publish.Request(repo, unproved=True, install=False), print)
    assert Apt.new(tmp_path / "apt", repo).versions("pgpool2") == {V1, V2}
    assert not [path for path in repo.rglob("*") if path.name.startswith(".partial")]
    print(f"killed at {len(tried)} calls: {seen['old']} times the old state was there, {seen['new']} times the new one")
    assert seen["old"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own takes root")
def test_a_full_disk_is_told_and_the_repository_is_as_it_was(checkout: Project, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    upload(checkout.dist / "trixie", V2, text="x" * 3_000_000)
    program = shlex.join([sys.executable, "-c", PROGRAM.format(packaging=PACKAGING), str(checkout.path), "disk/repo"])
    script = f"""
    mount -t tmpfs -o size=2m tmpfs disk
    mkdir aside && mv {checkout.dist}/trixie/*{V2}* aside
    {program}
    find disk/repo | sort >before
    mv aside/* {checkout.dist}/trixie
    {program} || echo "status $?"
    find disk/repo | sort | diff before - && echo "as it was"
    """
    command = ["unshare", "--mount", "sh", "-c", script]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "No space left on device" in answer.stderr, answer
    assert answer.stdout.splitlines()[-2:] == ["status 1", "as it was"], answer
