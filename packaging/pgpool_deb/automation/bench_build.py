"""`./invoke bench build`: compare the time of a build with that of Debian's own package in the same root.

The bench runs `./invoke build-deb` as a user would, as a process, with its own cache folder that starts empty. The
other side is `dpkg-buildpackage -b` of Debian's pgpool2 4.6.1-2, in a root that also has the build dependencies of
Debian's source. The bench alternates between the sides and compares their medians.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Dsc

from pgpool_deb.boxes import archive
from pgpool_deb.boxes.box import ChrootEngine
from pgpool_deb.boxes.roots import BUILD_USER, ROOT_USER, Root, Roots, entering
from pgpool_deb.builds import plan
from pgpool_deb.ground import compiler_caches, namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.errors import PackageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable
from pgpool_deb.packages import pgpool2
from pgpool_deb.packages.source_package import SourcePackage
from pgpool_deb.runs.build_deb import say
from pgpool_deb.upstream import download
from pgpool_deb.upstream.pins import Pins
from pgpool_deb.upstream.sources import Source

from .bench import BenchRow, publish

VERSION = "4.6.1"
RELEASE = "trixie"
DEBIANS_DSC = "pgpool2_4.6.1-2.dsc"
DEBIANS = {
    DEBIANS_DSC: ("ba61ac1fae672b493c2d1e92d0907f45dc4e116faac1df4efa814c9a5ca146da", 2694),
    "pgpool2_4.6.1-2.debian.tar.xz": ("730e44c8620ff51cf07c5dc6fe400a0709b42d7f1d13dafdcfbf5882582183cd", 15376),
}
"""The files of Debian's own source package except the tarball: name to SHA-256 and size in bytes."""
POOL = "{mirror}/pool/main/p/pgpool2/{name}"


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of `./invoke build-deb`: elapsed seconds, and the tool's own peak memory in MiB (VmHWM, proc(5))."""

    seconds: float
    peak: float


@dataclass(frozen=True, slots=True)
class BuildBench:
    """The bench of one checkout; it runs each side of a comparison `pairs` times."""

    project: Project
    scratch: Path
    pairs: int

    def run(self) -> None:
        """Measure all rows, print them and write them to dist/bench/build.json."""
        table = ReleaseTable.load(self.project.releases)
        names = ",".join(release.name for release in table.releases)
        say(f"building all of {names} from an empty cache …")
        nothing = self._invoke("--release", names, "--pgpool", VERSION)
        unchanged = [self._invoke("--release", names, "--pgpool", VERSION) for _ in range(5)]
        cache = Cache(self.scratch)
        release = table.named(RELEASE)
        roots = Roots(cache, plan.machine_architecture(), lambda: archive.find_archive(None))
        runner = Runner(self.scratch / "bench.log")
        peer = self._debians(cache, runner, roots, release)
        say("building Debian's source and ours in turn, with nothing cached and then with one file touched …")
        cold, touched, theirs = self._pairs(peer)
        entered, unpacked = self._entering(roots, release, runner)
        peak = max(run.peak for run in (nothing, *unchanged, *cold, *touched))
        title = f"{RELEASE}, {VERSION}, ready root, nothing cached, against Debian's 4.6.1-2"
        entering_title = "entering a clean builder root, against unpacking its tar"
        rows = [
            BenchRow.compared(title, _median(cold), theirs, unit="s", goal=0.6),
            BenchRow.compared("the same after touching one C file", _median(touched), theirs, unit="s", goal=0.2),
            BenchRow.absolute("nothing changed, all releases", _median(unchanged), unit="s", goal=1),
            BenchRow.compared(entering_title, entered, unpacked, unit="s", goal=0.05),
            BenchRow.absolute(f"{names} from nothing", nothing.seconds / 60, unit="min", goal=20),
            BenchRow.absolute("peak memory of the tool itself", peak, unit="MiB", goal=150),
        ]
        publish(rows, self.project.dist / "bench" / "build.json")

    def _invoke(self, *options: str) -> Timed:
        """Run `./invoke build-deb` with the bench's cache."""
        log = self.scratch / "invoke.log"
        env = {**os.environ, "PGPOOL_DEB_CACHE": str(self.scratch)}
        began = time.monotonic()
        with log.open("a", encoding="utf-8") as output:
            command = [str(self.project.path / "invoke"), "build-deb", "--engine", "chroot", *options]
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, _peak_memory(process.pid))
                time.sleep(0.02)
        seconds = time.monotonic() - began
        if process.returncode != 0:
            raise PackageError(f"{' '.join(command)} failed", hint=f"read {log}")
        return Timed(seconds, peak)

    def _debians(self, cache: Cache, runner: Runner, roots: Roots, release: Release) -> Callable[[], float]:
        """Fetch Debian's source package; return a function that builds it once and returns the elapsed seconds."""
        place = cache.folder("debian")
        mirror = archive.find_archive(None).mirror
        dsc = self._fetch_debians(mirror, place)
        orig = self._pinned()
        shutil.copyfile(orig.tarball, place / orig.orig_name)
        relations = str(Dsc(dsc.read_text())["Build-Depends"]).split(",")
        theirs = [line.split("<")[0].strip() for line in relations if line.strip()]  # no build profile is active
        ours = self._pgpool2(release, orig).dependencies
        root = roots.obtain(release, [*ours, *theirs], runner)
        jobs = os.cpu_count() or 1
        unpack = ["dpkg-source", "--no-check", "-x", dsc.name, "source"]

        def build() -> float:
            box = ChrootEngine(cache).box(root, "debian", runner)
            box.put(place)
            box.run(unpack, runner)
            plain = ["env", "--chdir=/build/source", "-u", "DEB_CPPFLAGS_APPEND", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
            began = time.monotonic()
            box.run([*plain, "dpkg-buildpackage", "-b", "-us", "-uc", f"-j{jobs}"], runner)
            seconds = time.monotonic() - began
            box.remove()
            return seconds

        return build

    def _pgpool2(self, release: Release, source: Source) -> SourcePackage:
        revision = ReleaseTable.load(self.project.releases).revision
        templates = self.project.templates(pgpool2.NAME)
        return pgpool2.source_package("bench", release, source, release.postgresql, revision, templates)

    def _pinned(self) -> Source:
        mirror = archive.find_archive(None).mirror
        return Pins.load(self.project.sources).obtain(VERSION, mirror, Cache(self.scratch).folder("sources"), say)

    def _fetch_debians(self, mirror: str, place: Path) -> Path:
        for name, (sha256, size) in DEBIANS.items():
            if not download.is_verified(place / name, sha256, size):
                download.fetch([POOL.format(mirror=mirror, name=name)], place / name, sha256, size, say)
        return place / DEBIANS_DSC

    def _pairs(self, debians: Callable[[], float]) -> tuple[list[Timed], list[Timed], float]:
        """Build ours cold, Debian's, and ours touched, in turn; return our runs and the median of Debian's seconds.

        The touched tree differs from the tarball of the cold build in one C file.
        """
        tree = self._tree()
        options = ("--release", RELEASE, "--source", str(tree))
        cold, touched, theirs = [], [], []
        for turn in range(self.pairs):
            namespaces.remove(self.scratch / compiler_caches.NAME)
            for dsc in self.scratch.glob("results/*/pgpool2_*.dsc"):  # the cluster package has no peer at Debian
                shutil.rmtree(dsc.parent)
            cold.append(self._invoke("--release", RELEASE, "--pgpool", VERSION))
            theirs.append(debians())
            with (tree / "src" / "main" / "main.c").open("a", encoding="utf-8") as handle:
                handle.write(f"/* touched {turn} */\n")
            touched.append(self._invoke(*options))
        return cold, touched, statistics.median(theirs)

    def _tree(self) -> Path:
        tree = self.scratch / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        tarball = self.scratch / "sources" / f"pgpool2_{VERSION}.orig.tar.gz"
        subprocess.run(["tar", "-xf", tarball, "-C", tree, "--strip-components=1"], check=True)
        return tree

    def _entering(self, roots: Roots, release: Release, runner: Runner) -> tuple[float, float]:
        """Return the median seconds of entering the builder root and of unpacking it from an uncompressed tar."""
        root = roots.obtain(release, self._pgpool2(release, self._pinned()).dependencies, runner)
        place = self.scratch / "enter"
        enter = [*namespaces.as_root(confined=True), *entering(root, place, BUILD_USER, [], confined=True)]
        entered = [_seconds([*enter, "true"]) for _ in range(11)]
        tar = self.scratch / "root.tar"
        self._pack(root, tar)
        unpacked = []
        for _ in range(3):
            namespaces.remove(place)
            place.mkdir()
            unpacked.append(_seconds([*namespaces.as_root(), "tar", "-xf", str(tar), "-C", str(place)]))
        namespaces.remove(place)
        tar.unlink()
        return statistics.median(entered), statistics.median(unpacked)

    def _pack(self, root: Root, tar: Path) -> None:
        place = self.scratch / "pack"
        words = [*namespaces.as_root(confined=True), *entering(root, place, ROOT_USER, [], confined=True)]
        with tar.open("wb") as output:
            subprocess.run([*words, "tar", "--one-file-system", "-C", "/", "-c", "."], stdout=output, check=True)
        namespaces.remove(place)


def _median(runs: Iterable[Timed]) -> float:
    return statistics.median(run.seconds for run in runs)


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began


def _peak_memory(pid: int) -> float:
    try:
        status = Path("/proc", str(pid), "status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1024
