"""`./invoke build-deb` and `./invoke shell`: turn the user's request into builds and an exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable
from functools import cache as memoised

from pgpool_deb.boxes import archive, disk, engines, machine
from pgpool_deb.boxes.roots import Roots
from pgpool_deb.builds import plan, schedule
from pgpool_deb.builds.farm import Farm
from pgpool_deb.builds.history import History
from pgpool_deb.builds.plan import BuildRequest, Cell
from pgpool_deb.builds.results import Dist, Results
from pgpool_deb.builds.workshop import INTERRUPTED, BuildState, Outcome, Workshop
from pgpool_deb.ground import atomic
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import Stop
from pgpool_deb.ground.errors import ExitStatus, PackageError, UsageError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable, machine_release
from pgpool_deb.packages import patches, pgpool2
from pgpool_deb.packages.patches import UNTRIED, Fit
from pgpool_deb.upstream.local_source import from_path
from pgpool_deb.upstream.pins import Pins
from pgpool_deb.upstream.sources import Source

from . import report
from .display import LiveDisplay, PlainDisplay, display_for

_UNTRIED = "unknown: patch(1) is missing, so no patch was tested (apt-get install patch)"


def say(text: str) -> None:
    """Print a line for the user."""
    print(text, flush=True)


def run(project: Project, request: BuildRequest) -> ExitStatus:
    """Build the requested packages, write dist/summary.json and dist/junit.xml, and return the exit status."""
    cache = Cache.open()
    with cache.locked("build", say):
        return _run(project, request, cache)


def _run(project: Project, request: BuildRequest, cache: Cache) -> ExitStatus:
    disk.check_writable(project.dist, "packages")
    cells = _cells(project, request, cache)
    history = History.load(cache.path / "history.json")
    stop = Stop()
    with display_for(history, [package for cell in cells for package in cell.packages]) as display:
        workshop = _workshop(project, request, cache, display, stop)
        outcomes = schedule.settled(workshop, cells)
        changed = [cell for cell in cells if cell not in outcomes]
        if changed:
            machine.require(machine.for_roots(), install=request.install, report=say)
            if request.endpoints:
                workshop.farm.open()  # reports a wrong name before any root is made
            outcomes |= schedule.build_all(workshop, changed, request.jobs)
    results = [outcomes[cell] for cell in cells]
    _remember((outcome for result in results for outcome in result.outcomes), history, cache)
    for line in report.closing_lines(results, project.dist):
        say(line)
    report.write(results, project.dist)
    if any(result.last.error is INTERRUPTED for result in results):
        print(INTERRUPTED, file=sys.stderr)
    return report.exit_status(results)


def explain(project: Project, request: BuildRequest) -> ExitStatus:
    """Print for each package whether it would be built and why, without building it.

    The source is obtained as for a build: a pinned tarball is downloaded, a tree of --source is packed. Nothing is
    installed, so without patch(1) the patches for a source that is not proved remain unknown.
    """
    cache = Cache.open()
    cells = _cells(project, request, cache, explaining=True)
    history = History.load(cache.path / "history.json")
    workshop = _workshop(project, request, cache, PlainDisplay(history), Stop())
    for package, fit in ((package, cell.fit) for cell in cells for package in cell.packages):
        untried = not fit.tried and package.source == pgpool2.NAME
        for line in [_UNTRIED] if untried else workshop.explain(package):
            say(f"{package.name}: {line}")
    return ExitStatus.GOOD


def shell(name: str) -> None:
    """Replace this process with a shell in the root where the build called `name` failed."""
    path = Cache.open().path / "boxes" / f"{name}.json"
    try:
        words: list[str] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        failed = sorted(record.stem for record in path.parent.glob("*.json"))
        known = f"failed builds: {', '.join(failed)}" if failed else "no failed build is recorded"
        raise UsageError(f"{name!r} is not a failed build", hint=known) from error
    os.execvp(words[0], words)  # noqa: S606 - this tool wrote the words


def _cells(project: Project, request: BuildRequest, cache: Cache, *, explaining: bool = False) -> tuple[Cell, ...]:
    if request.engine not in plan.ENGINES:
        raise UsageError(f"unknown engine: {request.engine}", hint=f"one of {', '.join(plan.ENGINES)}")
    if request.endpoints and request.engine == "chroot":
        hint = "omit --engine, or use --engine docker"
        raise UsageError("--endpoint and --engine chroot exclude each other", hint=hint)
    if request.stall <= 0 or request.jobs < 1:
        raise UsageError("--stall and --jobs take whole numbers above 0", hint="./invoke --help build-deb")
    if request.source is not None and request.pgpool is not None:
        raise UsageError(
            "--pgpool and --source exclude each other", hint="omit --pgpool: a source contains its own version"
        )
    table = ReleaseTable.load(project.releases)
    for release in table.select(request.releases, machine_release()):
        plan.majors_of(release, request.majors)
    pins = Pins.load(project.sources)
    source = _source(pins, request, cache)
    fit = _fit(project, pins, source, request, cache, explaining=explaining)
    applied = patches.chosen(project.templates(pgpool2.NAME), source.version) if fit.tried else ()
    fixed = {cve for patch in applied if patch not in fit.left_out for cve in patch.mends}
    _warn_of_advisories(pins, source, fixed)
    return plan.cells(request, table, source, machine_release(), project, fit)


def _fit(  # noqa: PLR0913 - each argument decides about the patches
    project: Project, pins: Pins, source: Source, request: BuildRequest, cache: Cache, *, explaining: bool = False
) -> Fit:
    """Return which of our patches fit the source.

    A proved release gets all of them, and its build fails if one does not fit. Installs patch(1) if it is missing,
    unless the build is only explained. Raises PackageError for a patch that does not fit if the request is strict.
    """
    chosen = patches.chosen(project.templates(pgpool2.NAME), source.version)
    proved = pins.proved_with(source.sha256)
    if proved == tuple(patch.name for patch in chosen):
        return Fit(proved=True)
    why = "has not passed the tests of this project" if proved is None else "was proved with other patches"
    say(f"warning: pgpool-II {source.version} {why}")
    if explaining and not all(tool.there() for tool in machine.PATCHES):
        return UNTRIED
    machine.require(machine.PATCHES, install=request.install, report=say)
    fit = patches.fit(chosen, source.tarball, source.sha256, cache.folder("sources"))
    for patch in fit.upstream:
        say(f"pgpool-II {source.version} already contains {patch.name}.patch")
    if fit.left_out and request.strict:
        names = ", ".join(patch.name for patch in fit.left_out)
        raise PackageError(
            f"patches do not fit pgpool-II {source.version}: {names}",
            hint="omit --strict to build without them, or correct the versions in series.in",
        )
    for patch in fit.left_out:
        say(f"warning: {patch.name}.patch does not fit and is left out: {patch.without}")
    return fit


def _source(pins: Pins, request: BuildRequest, cache: Cache) -> Source:
    folder = cache.folder("sources")
    if request.source is not None:
        source = from_path(request.source, folder, say, pins)
    else:
        version = request.pgpool or ""
        if version:
            pins.named(version)
        mirror = archive.find_archive(request.mirror).mirror
        source = pins.obtain(version or pins.default_version(mirror, folder, say), mirror, folder, say)
    return source


def _warn_of_advisories(pins: Pins, source: Source, fixed: Collection[str]) -> None:
    """Print the known advisories for the source, except the CVEs that our patches fix."""
    for advisory in pins.advisories(source.version):
        cves = [cve for cve in advisory.cves if cve not in fixed]
        if not cves:
            continue
        known = f"pgpool-II {source.version} has known advisories, fixed in {advisory.fixed_in}"
        say(f"warning: {known}: {', '.join(cves)} ({advisory.summary})")
        if better := pins.newest_without(advisory):
            unproved = "" if better.proved is not None else ", but it has not passed the tests of this project"
            say(f"hint: --pgpool {better.version}, if it can be downloaded, builds a version without them{unproved}")


def _workshop(
    project: Project, request: BuildRequest, cache: Cache, watcher: PlainDisplay | LiveDisplay, stop: Stop
) -> Workshop:
    find_archive: Callable[[], archive.DebianArchive] = memoised(lambda: _archive(request))
    return Workshop(
        cache=cache,
        roots=Roots(cache, plan.machine_architecture(), find_archive),
        results=Results(cache),
        dist=Dist(project.dist),
        farm=Farm(lambda: engines.find_engines(request.engine, request.endpoints, cache, say), say),
        watcher=watcher,
        stop=stop,
        stall=request.stall,
    )


def _archive(request: BuildRequest) -> archive.DebianArchive:
    chosen = archive.find_archive(request.mirror)
    if chosen.security is None:
        say("warning: no security archive is known, so roots are made without -security suites")
    return chosen


def _remember(outcomes: Iterable[Outcome], history: History, cache: Cache) -> None:
    for outcome in outcomes:
        if outcome.state is BuildState.BUILT:
            history.note(outcome.package.name, outcome.seconds)
        place = cache.folder("boxes") / f"{outcome.package.name}.json"
        if outcome.shell:
            atomic.write(place, json.dumps(outcome.shell))
        elif outcome.state is BuildState.BUILT:
            place.unlink(missing_ok=True)
