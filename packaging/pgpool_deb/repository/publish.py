"""`./invoke publish`: what dist/ holds becomes a new state of a repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb import machine
from pgpool_deb.errors import ExitStatus, UsageError
from pgpool_deb.pins import Pins
from pgpool_deb.project import Project
from pgpool_deb.releases import Release, ReleaseTable

from . import admission, indexer, states, suites
from .admission import Upload
from .stanzas import Indexed, PoolFile
from .states import Report
from .suites import Suite
from .tree import Found, Repository

TESTING = "testing"
STABLE = "stable"


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `./invoke publish`, parsed; no releases mean all that dist/ has packages of."""

    to: Path
    suite: str = TESTING
    releases: tuple[str, ...] = ()
    key: str | None = None
    url: str | None = None
    unproved: bool = False
    renew: bool = False
    """Publish nothing: sign every suite anew, as of now."""
    install: bool = True


def run(project: Project, request: Request, report: Report) -> ExitStatus:
    """Publish; raises UsageError for what may not be published, MachineError where the machine fails."""
    if request.suite not in (TESTING, STABLE):
        raise UsageError(f"there is no suite {request.suite!r}", hint=f"--suite {TESTING} or --suite {STABLE}")
    machine.require(machine.REPOSITORIES, install=request.install, report=report)
    if request.renew:
        return _renew(project, request, report)
    chosen = _releases(project, request)
    uploads = {release: admission.uploads(project.dist / release.name, release) for release in chosen}
    unproved = _unproved(project, uploads, request, report)
    repository = Repository.begin(request.to, request.url)
    with states.session(repository, request.key, report) as (key, moment):
        changed = []
        for release, those in uploads.items():
            suite = suites.verified(repository.state, suite_name(release.name, request.suite), release.name, key)
            changed.append(_grown(repository, suite, those, unproved[release]))
        new = [(release, one) for release, those in uploads.items() for one in those if not _told(repository, one)]
        if new:
            from .attest import attest  # noqa: PLC0415 - loads much, and only what is new is told of

            attest(repository, new, key, moment, Pins.load(project.sources))
        states.write(project, repository, changed, key, moment)
    for suite in changed:
        report(f"{suite.name}: {len(suite.packages)} packages, {len(suite.sources)} sources, at {repository.url}")
    return ExitStatus.GOOD


def _renew(project: Project, request: Request, report: Report) -> ExitStatus:
    repository = Repository.open(request.to)
    with states.session(repository, request.key, report) as (key, moment):
        state = repository.state
        found = [suites.verified(state, name, release, key) for name, release in suites.named(state).items()]
        states.write(project, repository, found, key, moment)
    report(f"{len(found)} suites were signed anew, for {suites.VALID_DAYS} days")
    return ExitStatus.GOOD


def suite_name(release: str, suite: str) -> str:
    """Return the name of a release's suite: `trixie`, or `trixie-testing`."""
    return release if suite == STABLE else f"{release}-{suite}"


def _releases(project: Project, request: Request) -> tuple[Release, ...]:
    table = ReleaseTable.load(project.releases)
    names = request.releases or tuple(one.name for one in table.releases if (project.dist / one.name).is_dir())
    if not names:
        raise UsageError("dist/ holds no packages", hint="./invoke build-deb builds them")
    return tuple(table.named(name) for name in names)


def _unproved(
    project: Project, uploads: dict[Release, tuple[Upload, ...]], request: Request, report: Report
) -> dict[Release, list[str]]:
    """Return the titles of what is published without a proof; raises UsageError unless that is wanted."""
    found: dict[Release, list[str]] = {}
    for release, those in uploads.items():
        lacking = admission.unproved(those, release, project.dist / "report" / "report.json")
        if lacking and not request.unproved:
            hint = (
                f"./invoke matrix --release {release.name} proves it; --unproved publishes it, and says so to clients"
            )
            raise UsageError(f"{release.name}: {lacking[0]}", hint=hint)
        for line in lacking:
            report(f"{release.name}: not proved: {line}")
        found[release] = [line.partition(":")[0] for line in lacking]
    return found


def _grown(repository: Repository, suite: Suite, uploads: Sequence[Upload], unproved: Sequence[str]) -> Suite:
    """Put the files of uploads into the pool, and their stanzas into the suite."""
    files = {file.path: file for upload in uploads for file in upload.files}
    known = {file.path for file in suite.files}
    new = [file for path, file in files.items() if path.endswith((".deb", ".dsc")) and path not in known]
    admission.refuse_older(new, suite.newest, suite.name)
    origins = [(upload.folder / Path(file.path).name, file) for upload in uploads for file in upload.files]
    absent = [(origin, file) for origin, file in origins if not _published(repository, file)]
    for origin, file in absent:
        admission.refuse_damaged(origin, file)
    repository.admit(absent)
    parts = [file for path, file in files.items() if not path.endswith((".changes", ".buildinfo"))]
    if new:
        found = indexer.index(repository.path, parts, suite.architectures)
        packages = tuple(one for one in found.packages if one.place not in known)
        suite.grow(Indexed(packages, tuple(one for one in found.sources if one.place not in known), found.contents))
    proved = {upload.title for upload in uploads} - set(unproved)
    suite.unproved = tuple(sorted({*suite.unproved, *unproved} - proved))
    return suite


def _told(repository: Repository, upload: Upload) -> bool:
    """Tell whether the pool says of an upload what it was made from; that stays as it was first said."""
    return (repository.path / f"{upload.statement}.asc").exists()


def _published(repository: Repository, file: PoolFile) -> bool:
    """Tell whether the pool has a file; raises UsageError where another one of its name has been published.

    One that a killed publish left, before any state named it, goes. A .changes or .buildinfo is as published as its
    .dsc: the first stays, where a later build came to the same packages.
    """
    found = repository.find(file)
    if found is Found.OTHER:
        record = file.path.endswith((".changes", ".buildinfo"))
        path = f"{file.path.rpartition('_')[0]}.dsc" if record else file.path
        if any(path in suites.files_named(state) for state in reversed(repository.states)):
            if record:
                return True
            raise UsageError(
                f"{Path(file.path).name} is published already, with other bytes",
                hint="raise `revision` in packaging/releases.toml or the project's version: one is published once",
            )
        repository.drop(file)
    return found is Found.SAME
