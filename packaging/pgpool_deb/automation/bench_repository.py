"""`./invoke bench repository`: time a publish into 100, 1,000 and 10,000 packages, and compare it with aptly.

The bench generates small packages, ten binary packages per version. It therefore measures checking, indexing, signing
and switching, not the copying of large files.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.boxes import archive, machine
from pgpool_deb.boxes.roots import Roots
from pgpool_deb.builds.plan import machine_architecture
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.repository import publish as publishing
from pgpool_deb.runs.build_deb import say
from pgpool_deb.runs.small_packages import upload

from .bench import BenchRow, publish

SIZES = (100, 1_000, 10_000)
BINARIES = tuple(f"postgresql-{number}-pgpool2" for number in range(10))
"""The binary packages of a version."""
_RELEASE = "trixie"
_PAUSE = 1.1
"""Seconds between two publishes: each state has its own second, and a publish within the same second would wait."""
_APTLY_SECONDS = 3600.0
"""The timeout for output of aptly, in seconds."""
_APTLY = """
set -eu
export HOME=/work
cd /work
gpg --batch --quiet --passphrase '' --quick-generate-key bench ed25519 sign
timed() {{
    date +%s.%N >>/work/times
    "$@"
    date +%s.%N >>/work/times
}}
first() {{
    aptly repo create -distribution=trixie -component=main bench
    aptly repo add bench /packages/all
    aptly publish repo -batch -acquire-by-hash bench
}}
more() {{
    aptly repo add bench /packages/more/$1
    aptly publish update -batch trixie
}}
timed first
for number in $(seq {pairs}); do
    timed more $number
done
"""


@dataclass(slots=True)
class RepositoryBench:
    """One run in the folder `scratch`; each side publishes one more cell `pairs` times."""

    project: Project
    scratch: Path
    pairs: int

    def run(self) -> None:
        """Measure, print the table, write dist/bench/repository.json; raises MachineError if a tool is missing."""
        machine.require((*machine.REPOSITORIES, *machine.for_roots()), install=True, report=say)
        rows = []
        for size in SIZES:
            fresh, more = self._ours(size)
            rows.append(
                BenchRow.absolute(
                    f"one new cell into {size:,} packages", more, unit="s", goal=1 if size < SIZES[-1] else 2
                )
            )
            if size == SIZES[-1]:
                rows.append(BenchRow.absolute(f"{size:,} packages from nothing", fresh, unit="s", goal=20))
                theirs = self._aptly()
                rows.append(
                    BenchRow.compared(f"one new cell into {size:,}, against aptly", more, theirs, unit="s", goal=0.2)
                )
        publish(rows, self.project.dist / "bench" / "repository.json")

    def _ours(self, size: int) -> tuple[float, float]:
        """Return the time to publish all packages, and the median time to publish one more cell, in seconds."""
        checkout = self.scratch / "checkout"
        shutil.rmtree(self.scratch, ignore_errors=True)
        (checkout / "packaging").mkdir(parents=True)
        for name in ("releases.toml", "sources.toml"):
            shutil.copyfile(self.project.path / "packaging" / name, checkout / "packaging" / name)
        project = Project(checkout)
        with _environment(XDG_DATA_HOME=str(self.scratch / "data")):
            for number in range(size // len(BINARIES)):
                upload(project.dist / _RELEASE, f"4.7.{number}-50+deb13+1", binaries=BINARIES)
            fresh = self._publish(project)
            took = []
            for number in range(self.pairs):
                shutil.move(project.dist / _RELEASE, self.scratch / f"before-{number}")
                upload(project.dist / _RELEASE, f"4.8.{number}-50+deb13+1", binaries=BINARIES)
                took.append(self._publish(project))
        say(f"{size:,} packages: {fresh:.1f} s from nothing, {statistics.median(took):.2f} s for one cell more")
        return fresh, statistics.median(took)

    def _publish(self, project: Project) -> float:
        time.sleep(_PAUSE)
        began = time.monotonic()
        request = publishing.PublishRequest(self.scratch / "repository", unproved=True, install=False)
        publishing.run(project, request, lambda _: None)
        return time.monotonic() - began

    def _aptly(self) -> float:
        """Return aptly's median time to add a cell to the packages of our last run, in seconds."""
        cache = Cache.open()
        release = ReleaseTable.load(self.project.releases).named(_RELEASE)
        roots = Roots(cache, machine_architecture(), lambda: archive.find_archive(None))
        runner = Runner(self.scratch / "aptly.log", stall=_APTLY_SECONDS)
        root = roots.obtain(release, ("aptly", "gnupg"), runner)
        work, packages = self.scratch / "aptly", self.scratch / "packages"
        work.mkdir()
        (packages / "more").mkdir(parents=True)
        shutil.move(self.scratch / "before-0", packages / "all")
        later = [
            *(self.scratch / f"before-{number}" for number in range(1, self.pairs)),
            self.scratch / "checkout/dist" / _RELEASE,
        ]
        for number, folder in enumerate(later, start=1):
            shutil.move(folder, packages / "more" / str(number))
        binds = [(work, "/work"), (packages, "/packages")]
        roots.run_in(root, ["sh", "-c", _APTLY.format(pairs=self.pairs)], runner, binds=binds)
        times = [float(line) for line in (work / "times").read_text(encoding="ascii").split()]
        fresh, *more = (end - begin for begin, end in zip(times[::2], times[1::2], strict=True))
        say(f"aptly: {fresh:.1f} s from nothing, {statistics.median(more):.2f} s for one cell more")
        return statistics.median(more)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
