"""`./invoke publish`: write the packages of dist/ as a new state of a repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.boxes import machine
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release, ReleaseTable
from pgpool_deb.upstream.pins import Pins

from . import admission, renewing, states, suites, uploading
from .admission import Upload
from .own_key import KeyType
from .signing import Key
from .suites import TESTING, Suite
from .tree import Repository

STABLE = "stable"


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """The options of `./invoke publish`, parsed; no releases mean every release with packages in dist/."""

    to: Path
    suite: str = TESTING
    releases: tuple[str, ...] = ()
    key: str | None = None
    url: str | None = None
    unproved: bool = False
    renew: bool = False
    """Publish nothing, but sign every suite that is not archived again, with the current time."""
    archive: tuple[str, ...] = ()
    """Publish nothing, but sign the suites of these releases, which are past their end of life, for the last time."""
    key_type: str | None = None
    """The algorithm of the project's own key, which is created on first use."""
    new: bool = False
    """Publish only proved, unpublished packages; a rebuild of a published version does not replace it."""
    install: bool = True

    @property
    def wanted(self) -> KeyType | None:
        """`key_type`, parsed; raises UsageError if there is no such type."""
        return KeyType.parse(self.key_type) if self.key_type is not None else None


def run(project: Project, request: PublishRequest, report: Report) -> ExitStatus:
    """Publish; raises UsageError for packages that may not be published, MachineError if the machine fails."""
    if request.suite not in (TESTING, STABLE):
        raise UsageError(f"unknown suite: {request.suite}", hint=f"--suite {TESTING} or --suite {STABLE}")
    wanted = request.wanted
    if request.archive and (request.renew or request.releases):
        raise UsageError("--archive cannot be combined with --renew or --release", hint="run two commands")
    machine.require(machine.REPOSITORIES, install=request.install, report=report)
    if request.archive or request.renew:
        _sign_anew(project, request, report)
        return ExitStatus.GOOD
    chosen = _releases(project, request)
    uploads = {release: admission.uploads(project.dist / release.name, release) for release in chosen}
    unproved = _unproved(project, uploads, request, report)
    repository = Repository.begin(request.to, request.url)
    _tell_move(repository, report)
    with states.session(repository, request.key, report, wanted) as (key, moment):
        admission.refuse_archived(suites.summaries(repository.state), [release.name for release in unproved])
        grown: list[Suite] = []
        new: list[tuple[Release, Upload]] = []
        for release, suite in _suites(repository, request, unproved, key).items():
            built = uploads[release]
            those = uploading.new(repository, suite, built, unproved[release], report) if request.new else built
            if those:
                uploading.grow(repository, suite, those, unproved[release])
                grown.append(suite)
                new += [(release, upload) for upload in those if not uploading.told_of(repository, upload)]
        if not grown and repository.moved_from is None:
            report(f"nothing to publish: {repository.path} is unchanged")
            return ExitStatus.GOOD
        if new:
            from .attest import attest  # noqa: PLC0415 - slow to load, and needed only for new packages

            known = {one.place: one for suite in grown for one in suite.packages}
            attest(repository, new, stanzas=known, key=key, moment=moment, pins=Pins.load(project.sources))
        states.write(project, repository, grown, key, moment)
    for suite in grown:
        report(f"{suite.name}: {len(suite.packages)} packages, {len(suite.sources)} sources, at {repository.url}")
    renewing.remind(project, repository, report)
    return ExitStatus.GOOD


def _tell_move(repository: Repository, report: Report) -> None:
    """Report how clients move if the repository gets another URL."""
    if repository.state is not None and (before := repository.moved_from) is not None:
        report(
            f"the URL changes from {before} to {repository.url}; every suite gets a keyring package with the new URL"
        )
        report("hint: keep serving the old URL until all servers have run apt upgrade")


def _sign_anew(project: Project, request: PublishRequest, report: Report) -> None:
    """Sign without publishing: all suites again, or with --archive those of the given releases for the last time."""
    renewing.refuse_living(project, request.archive)
    repository = Repository.open(request.to, request.url)
    _tell_move(repository, report)
    with states.session(repository, request.key, report, request.wanted) as (key, moment):
        found = (
            renewing.archived(repository, request.archive, key) if request.archive else renewing.living(repository, key)
        )
        states.write(project, repository, found, key, moment)
    if request.archive:
        for suite in found:
            report(f"{suite.name}: archived; signed without Valid-Until, and closed to new packages")
        return
    report(f"{len(found)} suites re-signed, valid for {suites.VALID_DAYS} days")
    renewing.remind(project, repository, report)


def suite_name(release: str, suite: str) -> str:
    """Return the name of a release's suite: `trixie`, or `trixie-testing`."""
    return release if suite == STABLE else f"{release}-{suite}"


def _releases(project: Project, request: PublishRequest) -> tuple[Release, ...]:
    table = ReleaseTable.load(project.releases)
    names = request.releases or tuple(one.name for one in table.releases if (project.dist / one.name).is_dir())
    if not names:
        raise UsageError("dist/ contains no packages", hint="./invoke build-deb builds them")
    return tuple(table.named(name) for name in names)


def _unproved(
    project: Project, uploads: dict[Release, tuple[Upload, ...]], request: PublishRequest, report: Report
) -> dict[Release, list[str]]:
    """Return the releases to publish, with the titles of their unproved packages.

    Raises UsageError for unproved packages without --unproved; with --new, skips their release instead.
    """
    found: dict[Release, list[str]] = {}
    for release, those in uploads.items():
        lacking = admission.unproved(those, release, project.dist / "report" / "report.json")
        if lacking and request.new and not request.unproved:
            report(f"{release.name}: skipped: {lacking[0]}")
            continue
        if lacking and not request.unproved:
            hint = f"prove it with ./invoke matrix --release {release.name}, or publish it as unproved with --unproved"
            raise UsageError(f"{release.name}: {lacking[0]}", hint=hint)
        for line in lacking:
            report(f"{release.name}: not proved: {line}")
        found[release] = [line.partition(":")[0] for line in lacking]
    return found


def _suites(
    repository: Repository, request: PublishRequest, releases: Iterable[Release], key: Key
) -> dict[Release, Suite]:
    """Return the current suites of releases; raises UsageError if one is damaged."""
    return {
        release: suites.verified(repository.state, suite_name(release.name, request.suite), release.name, key)
        for release in releases
    }
