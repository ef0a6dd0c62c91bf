"""`./invoke verify`: where packages are from, link by link, and whether they come out of it again, byte by byte.

What was published says how it was made: a .buildinfo names the source package, the versions of all that was installed,
the path and the environment. The rebuild has none of our caches, and none of our files but those of the source package.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from debian.deb822 import Dsc

from . import archive, engines, machine
from .build_deb import say
from .cache import Cache
from .command import CommandFailed, Runner
from .deb_differences import described, first_difference
from .download import sha256_of
from .errors import ExitStatus, PackageError, UsageError
from .pins import Pins
from .plan import machine_architecture
from .project import Project
from .record import Record
from .releases import Release, ReleaseTable
from .roots import Roots
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
    """Verify a .deb, or all that the .buildinfos of a folder name; FAILED where a byte differs or a link does not hold.

    First all walk from the .debs to upstream's tarball; what has lost its source is not built again. Raises UsageError
    for what cannot be verified, MachineError where the machine fails.
    """
    found = records(where)
    table = ReleaseTable.load(project.releases)
    pins = Pins.load(project.sources)
    different = 0
    whole = []
    for record in found:
        release_of(record, table)
        broken = walked(record, _debs(record, where), pins)
        different += len(broken)
        if not any(link.of_source for link in broken):
            whole.append(record)
    if whole:
        machine.require(machine.for_roots(), install=install, report=say)
    cache = Cache.open()
    roots = Roots(cache, machine_architecture(), lambda: archive.find_archive(mirror))
    for record in whole:
        release = release_of(record, table)
        say(f"{record.source} {record.version}: built again for {release.name}")
        with tempfile.TemporaryDirectory(dir=cache.folder("boxes"), prefix=".verify-") as place:
            for line in _rebuilt(record, release, cache, roots, Path(place)):
                say(line)
            for name in _debs(record, where):
                published, again = record.path.with_name(name), Path(place) / name
                line = compared(record, published, again)
                say(f"{name}: {line}")
                if line != SAME:
                    different += 1
                    _describe(published, again, cache.folder("logs") / f"verify-{name}.txt")
    return ExitStatus.FAILED if different else ExitStatus.GOOD


def walked(record: Record, debs: Sequence[str], pins: Pins) -> list[Link]:
    """Say each link from .debs to upstream's tarball, and return those that do not hold."""
    say(f"{record.source} {record.version}: from .deb to upstream")
    found = list(links(record, debs, pins))
    for link in found:
        say(f"  {link.text}" if link.holds else f"fault: {link.text}")
    return [link for link in found if not link.holds]


def _debs(record: Record, where: Path) -> list[str]:
    """Return the .debs that are asked for: all of a folder, or one."""
    named = sorted(name for name in record.sums if name.endswith(".deb"))
    return named if where.is_dir() else [name for name in named if name == where.name]


def _describe(published: Path, again: Path, report: Path) -> None:
    """Say where diffoscope's words on two .debs are, or how to get them; nothing where there are no two to compare."""
    if not (published.is_file() and again.is_file()):
        return
    if described(published, again, report):
        say(f"the whole difference: {report}")
    else:
        say("hint: with diffoscope, verify tells the whole difference: apt-get install diffoscope-minimal")


def records(where: Path) -> list[Record]:
    """Return what the .buildinfos of a folder say, or the one beside a .deb that names it; raises UsageError."""
    if where.is_dir():
        found = [Record.read(path) for path in sorted(where.rglob("*.buildinfo")) if path.is_file()]
        hint = "./invoke verify takes a .deb, dist/RELEASE, or the pool of a repository"
    else:
        beside = [Record.read(path) for path in sorted(where.parent.glob("*.buildinfo"))] if where.is_file() else []
        found = [record for record in beside if where.name in record.sums]
        hint = "the .buildinfo that names it has to lie beside it, as in the pool of a repository"
    if not found:
        raise UsageError(f"{where}: there is no .buildinfo", hint=hint)
    for record in found:
        lacking = [name for name in record.sums if name.endswith(".dsc") and not record.path.with_name(name).is_file()]
        if lacking or not any(name.endswith(".dsc") for name in record.sums):
            name = lacking[0] if lacking else "a .dsc"
            raise UsageError(f"{record.path} names {name}, which is not beside it", hint="get the source package, too")
    return found


def release_of(record: Record, table: ReleaseTable) -> Release:
    """Return the release that a version of ours is for; raises UsageError where it is not ours."""
    for release in table.releases:
        if record.version.endswith(f"+{release.suffix}"):
            return release
    raise UsageError(
        f"{record.source} {record.version} is for no release that is known", hint="versions end in +debN+M"
    )


def _rebuilt(record: Record, release: Release, cache: Cache, roots: Roots, out: Path) -> Iterator[str]:
    """Build the source package anew, its .debs into `out`; yields what differs in what is installed."""
    sources = _checked_sources(record)
    with record.dsc.open(encoding="utf-8") as handle:
        wanted = Dsc(handle)["Build-Depends"].replace("\n", " ").split(",")
    log = cache.folder("logs") / f"verify-{record.source}-{release.name}.log"
    log.unlink(missing_ok=True)
    runner = Runner(log)
    dependencies = ("build-essential", *(word.strip() for word in wanted if word.strip()))
    root = roots.obtain(release, dependencies, runner)
    there = set(root.packages)
    moved = sorted(one for one in record.installed if one not in there)
    if moved:
        some = ", ".join(moved[:5]) + (", …" if len(moved) > 5 else "")
        yield f"the archive has moved on; of what was installed then, {len(moved)} packages are not there: {some}"
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


def _checked_sources(record: Record) -> list[Path]:
    """Return the files of the source package, each as the .buildinfo and the .dsc say; raises UsageError."""
    with record.dsc.open(encoding="utf-8") as handle:
        rows = Dsc(handle)["Checksums-Sha256"]
    sums = {record.dsc.name: record.sums[record.dsc.name], **{str(row["name"]): str(row["sha256"]) for row in rows}}
    for name, sha256 in sums.items():
        path = record.path.with_name(name)
        if "/" in name or not path.is_file() or sha256_of(path) != sha256:
            raise UsageError(
                f"{path} is missing, or not what the .buildinfo was made with", hint="get the source package anew"
            )
    return [record.path.with_name(name) for name in sums]


def compared(record: Record, published: Path, again: Path) -> str:
    """Return `the same bytes`, or in one line which part, file and byte of two .debs is the first to differ."""
    if not again.is_file():
        return "the rebuild made no such package"
    if published.is_file() and sha256_of(published) != record.sums[published.name]:
        return "is not what the .buildinfo says"
    if sha256_of(again) == record.sums[again.name]:
        return SAME
    if not published.is_file():
        return f"SHA-256 {sha256_of(again)}, published was {record.sums[again.name]}"
    return first_difference(published, again)
