"""`./invoke verify`: trace packages to their sources link by link, rebuild them, and compare the bytes.

A published .buildinfo records how a package was made: it names the source package, the versions of all installed
packages, the path and the environment. The rebuild uses none of our caches, and of our files only the source package.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from debian.deb822 import Dsc

from pgpool_deb.boxes import archive, engines, machine
from pgpool_deb.boxes.roots import Roots
from pgpool_deb.builds.plan import machine_architecture
from pgpool_deb.builds.record import BuildRecord
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, Runner
from pgpool_deb.ground.errors import ExitStatus, PackageError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable
from pgpool_deb.upstream.download import sha256_of
from pgpool_deb.upstream.pins import Pins

from .build_deb import say
from .deb_differences import described, first_difference
from .walk import Link, links

SAME = "the same bytes"
_SCRIPT = """
set -eu
mkdir -p {parent}
dpkg-source --no-check -x {dsc} {path} >/dev/null
cd {path}
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/build {environment} \\
    dpkg-buildpackage --build=full --no-pre-clean --unsigned-source --unsigned-changes --jobs={jobs}
"""


def run(project: Project, where: Path, *, mirror: str | None = None, install: bool = True) -> ExitStatus:
    """Verify a .deb, or all files that the .buildinfos of a folder name; FAILED if a byte differs or a link is broken.

    All packages are traced from the .deb to upstream's tarball before any is rebuilt. A package whose source is broken
    is not rebuilt. Raises UsageError for a path that cannot be verified, MachineError if the machine fails.
    """
    table = ReleaseTable.load(project.releases)
    pins = Pins.load(project.sources)
    faults = 0
    with_source = []
    for record in records(where):
        release_of(record, table)
        broken = walked(record, _debs(record, where), pins)
        faults += len(broken)
        if not any(link.of_source for link in broken):
            with_source.append(record)
    if with_source:
        machine.require(machine.for_roots(), install=install, report=say)
    cache = Cache.open()
    roots = Roots(cache, machine_architecture(), lambda: archive.find_archive(mirror))
    for record in with_source:
        release = release_of(record, table)
        say(f"{record.source} {record.version}: rebuilding for {release.name}")
        with tempfile.TemporaryDirectory(dir=cache.folder("boxes"), prefix=".verify-") as place:
            for line in _rebuilt(record, release, cache, roots, Path(place)):
                say(line)
            for name in _debs(record, where):
                published, again = record.path.with_name(name), Path(place) / name
                line = compared(record, published, again)
                say(f"{name}: {line}")
                if line != SAME:
                    faults += 1
                    _describe(published, again, cache.folder("logs") / f"verify-{name}.txt")
    return ExitStatus.FAILED if faults else ExitStatus.GOOD


def walked(record: BuildRecord, debs: Sequence[str], pins: Pins) -> list[Link]:
    """Print each link from .debs to upstream's tarball, and return the broken ones."""
    say(f"{record.source} {record.version}: from .deb to upstream")
    chain = list(links(record, debs, pins))
    for link in chain:
        say(f"  {link.text}" if link.holds else f"fault: {link.text}")
    return [link for link in chain if not link.holds]


def _debs(record: BuildRecord, where: Path) -> list[str]:
    """Return the requested .debs: all of a folder, or one."""
    named = sorted(name for name in record.sums if name.endswith(".deb"))
    return named if where.is_dir() else [name for name in named if name == where.name]


def _describe(published: Path, again: Path, report: Path) -> None:
    """Print the path of diffoscope's report on two .debs, or how to get one; nothing if a .deb is missing."""
    if not (published.is_file() and again.is_file()):
        return
    if described(published, again, report):
        say(f"all differences: {report}")
    else:
        say("hint: apt-get install diffoscope-minimal, and verify shows all differences")


def records(where: Path) -> list[BuildRecord]:
    """Return the .buildinfos of a folder, or the one that names a .deb and lies beside it; raises UsageError."""
    if where.is_dir():
        chosen = [BuildRecord.read(path) for path in sorted(where.rglob("*.buildinfo")) if path.is_file()]
        hint = "name a .deb, dist/RELEASE, or the pool of a repository"
    else:
        beside = (
            [BuildRecord.read(path) for path in sorted(where.parent.glob("*.buildinfo"))] if where.is_file() else []
        )
        chosen = [record for record in beside if where.name in record.sums]
        hint = "put the .buildinfo file of the build beside it, as in the pool of a repository"
    if not chosen:
        raise UsageError(f"{where} contains no .buildinfo file", hint=hint)
    for record in chosen:
        lacking = [name for name in record.sums if name.endswith(".dsc") and not record.path.with_name(name).is_file()]
        if lacking or not any(name.endswith(".dsc") for name in record.sums):
            name = lacking[0] if lacking else "a .dsc"
            raise UsageError(f"{record.path} names {name}, which is not beside it", hint="get the source package, too")
    return chosen


def release_of(record: BuildRecord, table: ReleaseTable) -> Release:
    """Return the release that a package of ours is for; raises UsageError if it is not ours."""
    for release in table.releases:
        if record.version.endswith(f"+{release.suffix}"):
            return release
    raise UsageError(
        f"{record.source} {record.version} is not for a release in releases.toml",
        hint="use a package of this project: its versions end in +debN+M",
    )


def _rebuilt(record: BuildRecord, release: Release, cache: Cache, roots: Roots, out: Path) -> Iterator[str]:
    """Rebuild the source package and copy its .debs to `out`; yields how the installed packages differ."""
    sources = _checked_sources(record)
    with record.dsc.open(encoding="utf-8") as handle:
        relations = Dsc(handle)["Build-Depends"].replace("\n", " ").split(",")
    log = cache.folder("logs") / f"verify-{record.source}-{release.name}.log"
    log.unlink(missing_ok=True)
    runner = Runner(log)
    dependencies = ("build-essential", *(word.strip() for word in relations if word.strip()))
    root = roots.obtain(release, dependencies, runner)
    missing = sorted(record.installed - set(root.packages))
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        yield f"the archive has changed since the build: it lacks {len(missing)} of the installed packages: {some}"
    engine = engines.find_engine("chroot", cache)
    box = engine.box(root, f"verify-{record.source}-{release.name}", runner)
    try:
        with tempfile.TemporaryDirectory(dir=cache.folder("boxes"), prefix=".in-") as place:
            for path in sources:
                shutil.copyfile(path, Path(place) / path.name)
            box.put(Path(place))
        script = _SCRIPT.format(
            parent=shlex.quote(str(PurePosixPath(record.build_path).parent)),
            path=shlex.quote(record.build_path),
            dsc=shlex.quote(record.dsc.name),
            environment=shlex.join(f"{name}={value}" for name, value in record.environment.items()),
            jobs=engine.cores,
        )
        box.run(["sh", "-c", script], runner)
        box.get(out)
    except CommandFailed as failure:
        reason = next((line for line in reversed(failure.lines) if line.strip()), str(failure))
        raise PackageError(
            f"{record.source} {record.version} does not build: {reason}", hint=f"read {log}"
        ) from failure
    finally:
        box.remove()


def _checked_sources(record: BuildRecord) -> list[Path]:
    """Return the files of the source package after verifying them by the .buildinfo and the .dsc; raises UsageError."""
    with record.dsc.open(encoding="utf-8") as handle:
        rows = Dsc(handle)["Checksums-Sha256"]
    sums = {record.dsc.name: record.sums[record.dsc.name], **{str(row["name"]): str(row["sha256"]) for row in rows}}
    for name, sha256 in sums.items():
        path = record.path.with_name(name)
        if "/" in name or not path.is_file() or sha256_of(path) != sha256:
            raise UsageError(f"{path} is missing or differs from the built file", hint="get the source package again")
    return [record.path.with_name(name) for name in sums]


def compared(record: BuildRecord, published: Path, again: Path) -> str:
    """Return `the same bytes`, or a line with the part, file and byte of the first difference between two .debs."""
    if not again.is_file():
        return "the rebuild produced no such package"
    if published.is_file() and sha256_of(published) != record.sums[published.name]:
        return "differs from the hash in the .buildinfo"
    if sha256_of(again) == record.sums[again.name]:
        return SAME
    if not published.is_file():
        return f"SHA-256 {sha256_of(again)}; the published .deb has {record.sums[again.name]}"
    return first_difference(published, again)
