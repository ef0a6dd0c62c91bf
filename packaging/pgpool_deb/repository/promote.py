"""`./invoke promote`: add the packages of a release's testing suite to its stable suite, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.boxes import machine
from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project

from . import admission, growing, keyring, states, suites
from .stanzas import Indexed
from .tree import Repository


@dataclass(frozen=True, slots=True)
class PromoteRequest:
    """The options of `./invoke promote`, parsed; no releases mean all that have a testing suite."""

    place: Path
    releases: tuple[str, ...] = ()
    key: str | None = None
    install: bool = True


def run(project: Project, request: PromoteRequest, report: Report) -> ExitStatus:
    """Promote; raises UsageError if a suite is missing, is archived, or has packages without a proof."""
    machine.require(machine.REPOSITORIES, install=request.install, report=report)
    repository = Repository.open(request.place)
    with states.session(repository, request.key, report) as (key, moment):
        before = repository.state
        tested = {one.name: one.release for one in suites.summaries(before) if one.name != one.release}
        archived = {one.release for one in suites.summaries(before) if one.archived}
        chosen = request.releases or tuple(release for release in tested.values() if release not in archived)
        absent = [release for release in chosen if release not in tested.values()]
        if absent or not chosen:
            what = f"{absent[0]} has no testing suite" if absent else "no release has a testing suite"
            raise UsageError(f"{repository.path}: {what}", hint="publish to it first: ./invoke publish --suite testing")
        admission.refuse_archived(suites.summaries(before), chosen)
        changed = []
        for name, release in tested.items():
            if release not in chosen:
                continue
            testing = suites.verified(before, name, release, key)
            if testing.unproved:
                hint = "prove it with ./invoke matrix, then publish it again"
                raise UsageError(f"{name}: {testing.unproved[0]} is not proved", hint=hint)
            stable = suites.verified(before, release, release, key)
            known = {one.place for one in stable.packages}
            # a suite's keyring package names that suite
            new = [one for one in testing.packages if one.place not in known and one.package != keyring.NAME]
            admission.refuse_older((file for one in new for file in one.files), stable.newest, release)
            sources = {one.place for one in stable.sources}
            added = tuple(one for one in testing.sources if one.place not in sources)
            growing.grow(repository.path, stable, Indexed(tuple(new), added, testing.contents))
            changed.append(stable)
            for one in new:
                report(f"{release}: {one.package} {one.version}")
        states.write(project, repository, changed, key, moment)
    return ExitStatus.GOOD
