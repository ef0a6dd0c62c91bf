"""`./invoke publish --renew` and `--archive`: sign suites again without adding packages."""

from __future__ import annotations

from collections.abc import Sequence

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable, State

from . import suites
from .signing import Key
from .suites import Suite
from .tree import Repository


def living(repository: Repository, key: Key) -> list[Suite]:
    """Return every suite that is not archived; raises UsageError if one is damaged, or signed by another key."""
    state = repository.state
    return [suites.verified(state, one.name, one.release, key) for one in suites.summaries(state) if not one.archived]


def refuse_living(project: Project, releases: Sequence[str]) -> None:
    """Raise UsageError if one of these releases is not past its end of life."""
    table = ReleaseTable.load(project.releases)
    for name in releases:
        if (state := table.named(name).state) is not State.ARCHIVED:
            hint = f'set state = "archived" in [release.{name}] of packaging/releases.toml'
            raise UsageError(f"{name} is {state}, not archived", hint=hint)


def archived(repository: Repository, releases: Sequence[str], key: Key) -> list[Suite]:
    """Return the suites of releases past their end of life, marked as archived.

    Raises UsageError if a release has no suite, or if a suite is damaged or signed by another key.
    """
    before = repository.state
    names = {name: release for name, release in suites.named(before).items() if release in releases}
    if absent := [name for name in releases if name not in names.values()]:
        raise UsageError(
            f"{repository.path}: {absent[0]} has no suite", hint=f"ls {repository.path}/dists shows the suites"
        )
    found = [suites.verified(before, name, release, key) for name, release in names.items()]
    for suite in found:
        suite.archived = True
    return found


def remind(project: Project, repository: Repository, report: Report) -> None:
    """Report the releases past their end of life whose suites are not archived."""
    past = {one.name for one in ReleaseTable.load(project.releases).releases if one.state is State.ARCHIVED}
    for name in sorted({one.release for one in suites.summaries(repository.state) if not one.archived} & past):
        report(f"warning: {name} has reached end of life, and its suites are not archived")
        report(f"hint: ./invoke publish --to {repository.path} --archive {name}")
