"""`./invoke bench`: run a bench by its name."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgpool_deb.boxes import machine
from pgpool_deb.builds import plan
from pgpool_deb.ground import namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed
from pgpool_deb.ground.errors import ExitStatus, PackageError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable, machine_release
from pgpool_deb.runs import testing
from pgpool_deb.runs.build_deb import say

BENCHES = ("build", "cluster", "failover", "repository")
FAILOVERS = (
    "postgresql-killed",
    "primary-killed",
    "primary-silent",
    "standby-killed",
    "standby-silent",
    "cut-off",
    "switchover",
    "restart",
)
"""The cases of `bench failover`; tests/cluster/bench_failover.py measures them."""
STREAMING = "streaming_replication"
CLUSTERS = {STREAMING: "bench_cluster.py", "native_replication": "bench_native.py"}
"""The test module that measures a cluster, by the cluster's mode."""


def run(  # noqa: PLR0913 - the options of the task
    project: Project,
    what: str,
    *,
    pairs: int,
    scratch: Path | None,
    releases: str | None,
    mode: str = STREAMING,
    runs: int = 20,
    cases: str | None = None,
    peers: bool = False,
) -> ExitStatus:
    """Run the bench called `what` and return its exit status; raises UsageError for an unknown one."""
    if what not in BENCHES:
        raise UsageError(f"unknown bench: {what}", hint=f"one of {', '.join(BENCHES)}")
    for name, number in (("pairs", pairs), ("runs", runs)):
        if number < 1:
            raise UsageError(f"--{name} {number} is too small", hint=f"--{name} takes 1 or more")
    if peers:
        raise UsageError("--peers is not supported yet", hint="docs/reference/bench.md has the peers' known times")
    if what == "cluster":
        return _cluster(project, pairs, releases, mode)
    if what == "failover":
        chosen = parse_cases(cases)
        return on_hosts(project, releases, "bench_failover.py", f"--runs={runs}", f"--cases={','.join(chosen)}")
    if what == "repository":
        _repository(project, pairs, scratch)
    else:
        _build(project, pairs, scratch)
    return ExitStatus.GOOD


def _repository(project: Project, pairs: int, scratch: Path | None) -> None:
    from .bench_repository import RepositoryBench  # noqa: PLC0415 - an unchanged build-deb need not load it

    place = scratch or Path(tempfile.mkdtemp(prefix="bench-", dir=Cache.open().path))
    try:
        with _failures_reported():
            RepositoryBench(project, place.resolve() / "repository", pairs).run()
    finally:
        if scratch is None:
            namespaces.remove(place)


def _cluster(project: Project, pairs: int, releases: str | None, mode: str) -> ExitStatus:
    """Measure on the hosts of the cluster tests, which pytest's fixtures create."""
    if mode not in CLUSTERS:
        raise UsageError(f"unknown mode: {mode}", hint=f"one of {', '.join(CLUSTERS)}")
    return on_hosts(project, releases, CLUSTERS[mode], f"--pairs={pairs}")


def parse_cases(text: str | None) -> tuple[str, ...]:
    """Parse names of cases, joined by commas; None means all. Raises UsageError for an unknown one."""
    chosen = FAILOVERS if text is None else tuple(word.strip() for word in text.split(","))
    for name in chosen:
        if name not in FAILOVERS:
            raise UsageError(f"unknown case: {name!r}", hint=f"one or more of {','.join(FAILOVERS)}")
    return chosen


def on_hosts(project: Project, releases: str | None, module: str, *options: str) -> ExitStatus:
    """Run a module of tests/cluster on the hosts of one release, the first of `releases`, which its fixtures boot."""
    machine.require(testing.tools_of(("cluster",)), install=True, report=say)
    (release,) = ReleaseTable.load(project.releases).select(plan.parse_releases(releases), machine_release())[:1]
    fixed = ["-q", "-s", "-p", "no:cacheprovider", f"--releases={release.name}"]
    command = [sys.executable, "-m", "pytest", *fixed, *options, f"tests/cluster/{module}"]
    return testing.exit_status(subprocess.run(command, cwd=project.path, check=False).returncode)


def _build(project: Project, pairs: int, scratch: Path | None) -> None:
    from .bench_build import BuildBench  # noqa: PLC0415 - an unchanged build-deb need not load it

    machine.require(machine.for_roots(), install=True, report=say)
    place = scratch or Path(tempfile.mkdtemp(prefix="bench-", dir=Cache.open().path))
    place.mkdir(parents=True, exist_ok=True)
    try:
        with _failures_reported():
            BuildBench(project, place.resolve(), pairs).run()
    finally:
        if scratch is None:
            namespaces.remove(place)
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _failures_reported() -> Iterator[None]:
    """Raise PackageError, with the last line that it said, for a program that fails or hangs in the block."""
    try:
        yield
    except CommandFailed as failure:
        last_line = next((line for line in reversed(failure.lines) if line.strip()), "it printed nothing")
        hint = "--scratch FOLDER keeps the bench's logs"
        ended = f"{shlex.join(failure.argv[-5:])} ended with status {failure.status}"
        raise PackageError(f"{ended}: {last_line}", hint=hint) from failure
