"""`./invoke bench repository`: what a publish costs with 100, 1,000 and 10,000 packages there, beside aptly's.

The packages are small and made by the bench, ten binary packages a version, so what is measured is the repository's
part: checking, indexing, signing and switching, and not the copying of large files.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import statistics
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import archive, machine
from .bench import Row, publish
from .build_deb import say
from .cache import Cache
from .command import Runner
from .plan import machine_architecture
from .project import Project
from .releases import ReleaseTable
from .repository import publish as publishing
from .roots import Roots

SIZES = (100, 1_000, 10_000)
EACH = 10
"""Binary packages of a version."""
_RELEASE = "trixie"
_FILES = 20
_APTLY = """
set -eu
export HOME=/work
cd /work
[ -d .gnupg ] || gpg --batch --quiet --passphrase '' --quick-generate-key bench ed25519 sign
if [ ! -d .aptly ]; then
    aptly repo create -distribution=trixie -component=main bench >/dev/null
    aptly repo add bench /packages/all >/dev/null
    date +%s.%N >/work/began
    aptly publish repo -batch -acquire-by-hash bench >/dev/null
    date +%s.%N >/work/ended
fi
for number in $(seq {pairs}); do
    date +%s.%N
    aptly repo add bench /packages/more/$number >/dev/null
    aptly publish update -batch trixie >/dev/null
    date +%s.%N
done >/work/times
"""


@dataclass(slots=True)
class RepositoryBench:
    """One run in the folder `scratch`; `pairs` is how often each side publishes one more cell."""

    project: Project
    scratch: Path
    pairs: int

    def run(self) -> None:
        """Measure, print the table, write dist/bench/repository.json; raises MachineError where a tool is missing."""
        machine.require((*machine.REPOSITORIES, *machine.for_roots()), install=True, report=say)
        rows = []
        for size in SIZES:
            fresh, more = self._ours(size)
            rows.append(
                Row.absolute(f"one new cell into {size:,} packages", more, unit="s", goal=1 if size < SIZES[-1] else 2)
            )
            if size == SIZES[-1]:
                rows.append(Row.absolute(f"{size:,} packages from nothing", fresh, unit="s", goal=20))
                theirs = self._aptly()
                rows.append(
                    Row.compared(f"one new cell into {size:,}, against aptly", more, theirs, unit="s", goal=0.2)
                )
        publish(rows, self.project.dist / "bench" / "repository.json")

    def _ours(self, size: int) -> tuple[float, float]:
        """Return how long it took to publish all, and in the median one cell more."""
        checkout = self.scratch / "checkout"
        shutil.rmtree(self.scratch, ignore_errors=True)
        (checkout / "packaging").mkdir(parents=True)
        for name in ("releases.toml", "sources.toml"):
            shutil.copyfile(self.project.path / "packaging" / name, checkout / "packaging" / name)
        project = Project(checkout)
        with _environment(XDG_DATA_HOME=str(self.scratch / "data")):
            for number in range(size // EACH):
                upload(project.dist / _RELEASE, f"4.7.{number}-50+deb13+1")
            fresh = self._publish(project)
            took = []
            for number in range(self.pairs):
                shutil.move(project.dist / _RELEASE, self.scratch / f"before-{number}")
                upload(project.dist / _RELEASE, f"4.8.{number}-50+deb13+1")
                took.append(self._publish(project))
        say(f"{size:,} packages: {fresh:.1f} s from nothing, {statistics.median(took):.2f} s for one cell more")
        return fresh, statistics.median(took)

    def _publish(self, project: Project) -> float:
        began = time.monotonic()
        request = publishing.Request(self.scratch / "repository", unproved=True, install=False)
        publishing.run(project, request, lambda _: None)
        return time.monotonic() - began

    def _aptly(self) -> float:
        """Return how long aptly takes, in the median, to add a cell to the packages of the last run of ours."""
        cache = Cache.open()
        release = ReleaseTable.load(self.project.releases).named(_RELEASE)
        roots = Roots(cache, machine_architecture(), lambda: archive.find_archive(None))
        runner = Runner(self.scratch / "aptly.log")
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
        return statistics.median(end - begin for begin, end in zip(times[::2], times[1::2], strict=True))


def upload(folder: Path, version: str) -> None:
    """Make what the build of a version leaves: ten small packages, a source package and a .changes."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(version)  # noqa: S311 - the same packages in each run
    files = {}
    for number in range(EACH):
        name = f"postgresql-{number}-pgpool2"
        files[f"{name}_{version}_amd64.deb"] = _deb(name, version, chance)
    tar, dsc = f"pgpool2_{version}.tar.xz", f"pgpool2_{version}.dsc"
    files[tar] = _tar({"debian/rules": chance.randbytes(1000)})
    sums = f" {hashlib.sha256(files[tar]).hexdigest()} {len(files[tar])} {tar}\n"
    md5 = f" {hashlib.md5(files[tar]).hexdigest()} {len(files[tar])} {tar}\n"  # noqa: S324 - a field of the format
    files[dsc] = (
        f"Format: 3.0 (native)\nSource: pgpool2\nBinary: pgpool2\nArchitecture: any\nVersion: {version}\n"
        f"Maintainer: A Bench <bench@example.org>\nChecksums-Sha256:\n{sums}Files:\n{md5}"
    ).encode()
    own = {name: data for name, data in files.items() if name.endswith((".deb", ".dsc"))}
    listed = "".join(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in own.items())
    files[f"pgpool2_{version}_amd64.buildinfo"] = (
        f"Format: 1.0\nSource: pgpool2\nVersion: {version}\nChecksums-Sha256:\n{listed}Build-Origin: Debian\n"
        "Build-Architecture: amd64\nBuild-Date: Mon, 30 Nov 2026 01:48:13 +0000\nBuild-Path: /build/pgpool2\n"
        'Installed-Build-Depends:\n bash (= 5.2.37-2+b10)\nEnvironment:\n LC_ALL="C.UTF-8"\n'
    ).encode()
    listed = "".join(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n" for name, data in files.items())
    changes = f"Format: 1.8\nSource: pgpool2\nVersion: {version}\nChecksums-Sha256:\n{listed}"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / f"pgpool2_{version}_amd64.changes").write_text(changes, encoding="utf-8")


def _deb(name: str, version: str, chance: random.Random) -> bytes:
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSource: pgpool2\nSection: database\n"
        f"Maintainer: A Bench <bench@example.org>\nDepends: libc6 (>= 2.36), libpq5 (>= 15), {name}-common | other\n"
        "Description: one of many\n It is here to be indexed, with a text as long as many have,\n and twenty files.\n"
    ).encode()
    paths = {f"./usr/share/{name}/file{number}": chance.randbytes(50) for number in range(_FILES)}
    parts = {"debian-binary": b"2.0\n", "control.tar": _tar({"./control": control}), "data.tar": _tar(paths)}
    made = b"!<arch>\n"
    for part, data in parts.items():
        made += f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return made


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


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
