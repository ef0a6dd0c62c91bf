"""`./invoke publish`: what dist/ holds becomes a new state of a repository."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb import machine
from pgpool_deb.download import sha256_of
from pgpool_deb.errors import ExitStatus, UsageError
from pgpool_deb.pins import Pins
from pgpool_deb.project import Project
from pgpool_deb.rebuild import Record
from pgpool_deb.releases import Release, ReleaseTable

from . import admission, indexer, provenance, states, suites
from .admission import Upload
from .signing import Key
from .stanzas import Indexed, PoolFile
from .states import Report
from .suites import Suite
from .tree import Found, Repository

TESTING = "testing"
STABLE = "stable"
_RECORDS = (".changes", ".buildinfo")


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
    new: bool = False
    """Publish only what is proved and not published yet; a version that was built again stays as it was published."""
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
        pins = Pins.load(project.sources)
        changed = []
        for release in unproved:
            built = uploads[release]
            suite = suites.verified(repository.state, suite_name(release.name, request.suite), release.name, key)
            those = _new(repository, suite, built, unproved[release], report) if request.new else built
            if not those:
                continue
            changed.append(_grown(repository, suite, those, unproved[release]))
            for upload in those:
                _attest(repository, upload, release, key, moment, pins)
        if not changed:
            report(f"nothing is new: {repository.path} is as it was")
            return ExitStatus.GOOD
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
    """Return the releases to publish, with the titles of what has no proof; raises UsageError unless that is wanted.

    Where only what is new is wanted, a release with anything unproved is passed over.
    """
    found: dict[Release, list[str]] = {}
    for release, those in uploads.items():
        lacking = admission.unproved(those, release, project.dist / "report" / "report.json")
        if lacking and request.new and not request.unproved:
            report(f"{release.name}: passed over: {lacking[0]}")
            continue
        if lacking and not request.unproved:
            hint = (
                f"./invoke matrix --release {release.name} proves it; --unproved publishes it, and says so to clients"
            )
            raise UsageError(f"{release.name}: {lacking[0]}", hint=hint)
        for line in lacking:
            report(f"{release.name}: not proved: {line}")
        found[release] = [line.partition(":")[0] for line in lacking]
    return found


def _new(
    repository: Repository, suite: Suite, uploads: Sequence[Upload], unproved: Sequence[str], report: Report
) -> tuple[Upload, ...]:
    """Return the uploads that the suite does not have yet, or not as proved; none that are published otherwise."""
    found = []
    proved = set(suite.unproved) - set(unproved)
    known = {file.path for file in suite.files}
    for upload in uploads:
        if other := next((file for file in upload.files if _published_as_other(repository, file)), None):
            report(f"{upload.title} is published already, and stays as it is: {Path(other.path).name} differs")
            report("hint: to publish a change, raise `revision` in packaging/releases.toml or the project's version")
        elif upload.title in proved or any(
            file.path.endswith((".deb", ".dsc")) and file.path not in known for file in upload.files
        ):
            found.append(upload)
    return tuple(found)


def _published_as_other(repository: Repository, file: PoolFile) -> bool:
    """Tell whether a file is published with other bytes; records of a build do not count, as the first one stays."""
    if file.path.endswith(_RECORDS) or repository.find(file) is not Found.OTHER:
        return False
    return any(file.path in suites.files_named(state) for state in reversed(repository.states))


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
    parts = [file for path, file in files.items() if not path.endswith(_RECORDS)]
    if new:
        found = indexer.index(repository.path, parts, suite.architectures)
        packages = tuple(one for one in found.packages if one.place not in known)
        suite.grow(Indexed(packages, tuple(one for one in found.sources if one.place not in known), found.contents))
    proved = {upload.title for upload in uploads} - set(unproved)
    suite.unproved = tuple(sorted({*suite.unproved, *unproved} - proved))
    return suite


def _attest(  # noqa: PLR0913, PLR0917 - a statement, its subject, its signature and its time
    repository: Repository, upload: Upload, release: Release, key: Key, moment: int, pins: Pins
) -> None:
    """Publish beside an upload what it was made from, signed; what is there already stays."""
    folder = admission.pool_folder(upload.source)
    name = f"{Path(upload.buildinfo.path).stem}{provenance.SUFFIX}"
    if (repository.path / folder / f"{name}.asc").exists():
        return
    record = Record.read(repository.path / upload.buildinfo.path)
    text = provenance.text(provenance.statement(record, upload.files, release.name, pins))
    with tempfile.TemporaryDirectory() as place:
        made = []
        for file, content in ((name, text), (f"{name}.asc", key.signature(text, moment))):
            path = Path(place, file)
            path.write_text(content, encoding="utf-8")
            made.append((path, PoolFile(f"{folder}/{file}", sha256_of(path), path.stat().st_size)))
        repository.admit(made)


def _published(repository: Repository, file: PoolFile) -> bool:
    """Tell whether the pool has a file; raises UsageError where another one of its name has been published.

    One that a killed publish left, before any state named it, goes. A .changes or .buildinfo is as published as its
    .dsc: the first stays, where a later build came to the same packages.
    """
    found = repository.find(file)
    if found is Found.OTHER:
        record = file.path.endswith(_RECORDS)
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
