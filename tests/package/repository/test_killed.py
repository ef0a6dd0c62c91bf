"""A publish that is killed at a system call leaves either the old or the new repository, and apt accepts it.

Not in the unit level: each kill is a whole publish with gpg and apt-ftparchive under strace.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.repository.apt import Apt
from tests.unit.repository.conftest import FIRST, V1, V2

from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import check, publish
from pgpool_deb.runs.small_packages import upload

CHANGING = (
    "openat", "write", "rename", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "unlink",
    "unlinkat", "rmdir", "fsync", "chmod", "fchmod", "fchmodat", "sendfile", "copy_file_range", "ftruncate", "clone",
    "clone3", "vfork", "wait4",
)  # fmt: skip
"""System calls that change what others see of a file system, or begin to; those of programs that it starts included."""
PACKAGING = str(Path(__file__).parents[3] / "packaging")
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {packaging!r})
from pgpool_deb.ground.project import Project
from pgpool_deb.repository import publish
print(">>> begins", flush=True)
publish.run(Project(Path(sys.argv[1])), publish.PublishRequest(Path(sys.argv[2]), unproved=True, install=False), print)
"""
EVERY = 40
"""Where the tests are brief, every so many calls one is tried."""
BEGINS = ">>> begins"
ALL = "all"
"""strace's word for every system call."""


def publishing(checkout: Path, repository: Path, *strace: str) -> list[str]:
    program = [sys.executable, "-c", PROGRAM.format(packaging=PACKAGING), str(checkout), str(repository)]
    return ["strace", "-qq", "-o", f"{repository}.trace", *strace, *program]


def changing(trace: str) -> list[tuple[str, int]]:
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


def every(trace: str) -> list[tuple[str, int]]:
    """Return each call of a publish by its number."""
    called = [line for line in trace.splitlines() if not line.startswith(("---", "+++"))]
    first = next(number for number, line in enumerate(called, 1) if BEGINS in line)
    return [(ALL, number) for number in range(first + 1, len(called) + 1)]


@dataclass(frozen=True, slots=True)
class Worker:
    """Kills publishes, of one repository at a time, with a copy of the key: others do the same beside it."""

    place: Path
    checkout: Path
    before: Path

    @classmethod
    def new(cls, place: Path, checkout: Path, before: Path, data: Path) -> Worker:
        shutil.copytree(data, place / "data", ignore=shutil.ignore_patterns("S.*"))  # gpg's sockets
        return cls(place, checkout, before)

    @property
    def repo(self) -> Path:
        return self.place / "repo"

    def run(self, second: int, *strace: str) -> int:
        """Publish as of a second after the first state, and return the status."""
        own = {"SOURCE_DATE_EPOCH": str(FIRST + second), "XDG_DATA_HOME": str(self.place / "data")}
        command = publishing(self.checkout, self.repo, *strace)
        return subprocess.run(command, env={**os.environ, **own}, capture_output=True, check=False).returncode

    def trace(self, calls: str) -> str:
        """Return what strace says of a publish that nothing happens to."""
        shutil.copytree(self.before, self.repo, symlinks=True)
        assert self.run(1, "-e", f"trace={calls}") == 0
        shutil.rmtree(self.repo)
        return Path(f"{self.repo}.trace").read_text(encoding="utf-8", errors="replace")

    def killed(self, name: str, number: int) -> str:
        """Kill a publish at a call, and look at what is left; returns which state clients are given."""
        shutil.copytree(self.before, self.repo, symlinks=True)
        ended = self.run(1, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}") == 0
        found = self.versions()
        assert found in ({V1}, {V1, V2}), (name, number)
        lines: list[str] = []
        assert check.run(str(self.repo), lines.append, install=False) is ExitStatus.GOOD, (name, number, lines)
        assert self.run(2, "-e", "trace=none") == 0, (name, number)
        assert self.versions() == {V1, V2}, (name, number)
        assert not [path for path in self.repo.rglob("*") if path.name.startswith(".partial")], (name, number)
        shutil.rmtree(self.repo)
        return "ended" if ended else "new" if V2 in found else "old"

    def versions(self) -> set[str]:
        return Apt.new(self.place / "apt", self.repo).versions("pgpool2")


def test_a_publish_that_is_killed_at_any_call_leaves_a_consistent_state(
    checkout: Project,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    data_home: Path,
) -> None:
    """Each time apt reads what is left, and the next publish does what the killed one could not."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(FIRST))
    before = tmp_path / "before"
    publish.run(checkout, publish.PublishRequest(before, unproved=True, install=False), print)
    upload(checkout.dist / "trixie", V2)
    workers = [
        Worker.new(tmp_path / f"worker-{number}", checkout.path, before, data_home)
        for number in range(os.cpu_count() or 1)
    ]
    if request.config.getoption("--every-call"):
        tried = every(workers[0].trace(ALL))
    else:
        tried = changing(workers[0].trace(",".join(f"?{name}" for name in CHANGING)))
    if request.config.getoption("--brief"):
        tried = tried[::EVERY]
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(len(workers)) as pool:
        for states in pool.map(work, workers, (tried[number :: len(workers)] for number in range(len(workers)))):
            seen += states
    print(f"killed at {len(tried)} calls: {seen['old']} times the old state was there, {seen['new']} times the new one")
    assert seen["old"]
    assert seen["ended"] < 20, "the number of calls differs a little from run to run"


def work(worker: Worker, calls: Sequence[tuple[str, int]]) -> Counter[str]:
    """Return how often each state was left."""
    return Counter(worker.killed(name, number) for name, number in calls)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk_is_reported_and_the_repository_is_unchanged(checkout: Project, tmp_path: Path) -> None:
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
