"""`./invoke publish`: what dist/ holds becomes a new state of a repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb import machine
from pgpool_deb.errors import ExitStatus, UsageError
from pgpool_deb.pins import Pins
from pgpool_deb.project import Project
from pgpool_deb.releases import Release, ReleaseTable, State

from . import admission, indexer, states, suites
from .admission import Upload
from .own_key import KeyType
from .signing import Key
from .stanzas import Indexed, PoolFile
from .states import Report
from .suites import TESTING, Suite
from .tree import Found, Repository

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
    archive: tuple[str, ...] = ()
    """Publish nothing: sign the suites of these releases, which are past their end, for the last time."""
    key_type: str | None = None
    """What the project's own key is made of, on first use."""
    new: bool = False
    """Publish only what is proved and not published yet; a version that was built again stays as it was published."""
    install: bool = True

    @property
    def wanted(self) -> KeyType | None:
        """`key_type`, parsed; raises UsageError where there is no such type."""
        return KeyType.parse(self.key_type) if self.key_type is not None else None


def run(project: Project, request: Request, report: Report) -> ExitStatus:
    """Publish; raises UsageError for what may not be published, MachineError where the machine fails."""
    if request.suite not in (TESTING, STABLE):
        raise UsageError(f"there is no suite {request.suite!r}", hint=f"--suite {TESTING} or --suite {STABLE}")
    wanted = request.wanted
    if request.archive and (request.renew or request.releases):
        raise UsageError("--archive publishes nothing, and renews nothing", hint="leave out --renew and --release")
    machine.require(machine.REPOSITORIES, install=request.install, report=report)
    if request.archive:
        return _archive(project, request, report)
    if request.renew:
        return _renew(project, request, report)
    chosen = _releases(project, request)
    uploads = {release: admission.uploads(project.dist / release.name, release) for release in chosen}
    unproved = _unproved(project, uploads, request, report)
    repository = Repository.begin(request.to, request.url)
    with states.session(repository, request.key, report, wanted) as (key, moment):
        admission.refuse_archived(suites.summaries(repository.state), [release.name for release in unproved])
        grown: list[Suite] = []
        new: list[tuple[Release, Upload]] = []
        for release, suite in _suites(repository, request, unproved, key).items():
            built = uploads[release]
            those = _new(repository, suite, built, unproved[release], report) if request.new else built
            if those:
                _grow(repository, suite, those, unproved[release])
                grown.append(suite)
                new += [(release, upload) for upload in those if not _told(repository, upload)]
        if not grown:
            report(f"nothing is new: {repository.path} is as it was")
            return ExitStatus.GOOD
        if new:
            from .attest import attest  # noqa: PLC0415 - loads much, and only what is new is told of

            known = {one.place: one for suite in grown for one in suite.packages}
            attest(repository, new, stanzas=known, key=key, moment=moment, pins=Pins.load(project.sources))
        states.write(project, repository, grown, key, moment)
    for suite in grown:
        report(f"{suite.name}: {len(suite.packages)} packages, {len(suite.sources)} sources, at {repository.url}")
    _remind(project, repository, report)
    return ExitStatus.GOOD


def _renew(project: Project, request: Request, report: Report) -> ExitStatus:
    repository = Repository.open(request.to)
    with states.session(repository, request.key, report, request.wanted) as (key, moment):
        state = repository.state
        living = [one for one in suites.summaries(state) if not one.archived]
        found = [suites.verified(state, one.name, one.release, key) for one in living]
        states.write(project, repository, found, key, moment)
    report(f"{len(found)} suites were signed anew, for {suites.VALID_DAYS} days")
    _remind(project, repository, report)
    return ExitStatus.GOOD


def _archive(project: Project, request: Request, report: Report) -> ExitStatus:
    """Sign the suites of releases past their end without Valid-Until; they take no packages any more."""
    table = ReleaseTable.load(project.releases)
    for name in request.archive:
        if (state := table.named(name).state) is not State.ARCHIVED:
            hint = f'state = "archived" of [release.{name}] in packaging/releases.toml says that its end has passed'
            raise UsageError(f"{name} is {state}, not past its end", hint=hint)
    repository = Repository.open(request.to)
    with states.session(repository, request.key, report, request.wanted) as (key, moment):
        before = repository.state
        names = {name: release for name, release in suites.named(before).items() if release in request.archive}
        if absent := [name for name in request.archive if name not in names.values()]:
            raise UsageError(f"{repository.path}: {absent[0]} has no suite", hint="dists/ has a folder for each suite")
        found = [suites.verified(before, name, release, key) for name, release in names.items()]
        for suite in found:
            suite.archived = True
        states.write(project, repository, found, key, moment)
    for suite in found:
        report(f"{suite.name}: archived: it stays, signed without an end, and takes no packages any more")
    return ExitStatus.GOOD


def _remind(project: Project, repository: Repository, report: Report) -> None:
    """Say which suites are of releases past their end."""
    past = {one.name for one in ReleaseTable.load(project.releases).releases if one.state is State.ARCHIVED}
    for name in sorted({one.release for one in suites.summaries(repository.state) if not one.archived} & past):
        report(f"warning: {name} is past its end")
        report(f"hint: ./invoke publish --to {repository.path} --archive {name}")


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
    known = suite.places
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


def _suites(repository: Repository, request: Request, releases: Iterable[Release], key: Key) -> dict[Release, Suite]:
    """Return the suites of releases as they are now; raises UsageError where one is damaged."""
    return {
        release: suites.verified(repository.state, suite_name(release.name, request.suite), release.name, key)
        for release in releases
    }


def _grow(repository: Repository, suite: Suite, uploads: Sequence[Upload], unproved: Sequence[str]) -> None:
    """Put the files of uploads into the pool, and their stanzas into the suite."""
    files = {file.path: file for upload in uploads for file in upload.files}
    known = suite.places
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
