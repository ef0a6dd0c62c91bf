"""`./invoke update --open`: commit the news from Debian or upstream on a branch, for a pipeline to push.

A run opens one change. Debian's advisories come first, because they need no build; then the newest upstream release
that builds and passes its tests. A change whose branch exists, here or in the last fetch of `origin`, is already open.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.own_git import git
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.upstream import debians_tracker
from pgpool_deb.upstream.pins import Advisory, Pins

from . import update, watch

PREFIX = "update/"
_VERSION = re.compile(r'(?m)^(version = "[0-9]+\.[0-9]+\.)([0-9]+)"')


def run(project: Project, request: update.UpdateRequest, report: Report) -> ExitStatus:
    """Open a change, or report that there is none; without releases, a new upstream release is tried on all.

    Returns the status of the attempt, or ENVIRONMENT if upstream or Debian does not answer. Raises UsageError if the
    checkout has uncommitted changes.
    """
    if git(project.path, "status", "--porcelain", "--untracked-files=no"):
        raise UsageError("the checkout has uncommitted changes", hint="commit or stash them")
    pins = Pins.load(project.sources)
    status = ExitStatus.GOOD
    for step in (_advisories, _release):
        try:
            opened = step(project, pins, request, report)
        except MachineError as error:
            report(f"warning: {error.message}")
            status = ExitStatus.ENVIRONMENT
        else:
            if opened is not None:
                return opened
    if status is ExitStatus.GOOD:
        report("nothing to open: there is no news, or its change is already open")
    return status


def _advisories(project: Project, pins: Pins, _request: update.UpdateRequest, report: Report) -> ExitStatus | None:
    """Note Debian's new advisories, and raise the version of the cluster package, which contains them."""
    advisories: list[Advisory] = []
    for cve in watch.new_cves(pins):
        if _is_open(project, f"{PREFIX}{cve}"):
            report(f"{cve} is already open: {PREFIX}{cve}")
            continue
        address = f"{watch.DEBIAN.rpartition('/source-package/')[0]}/{cve}"
        advisory = debians_tracker.advisory(cve, watch.page(address))
        if advisory is None:
            report(f"warning: {cve}: Debian lists no upstream release with the fix; see {address}")
        else:
            advisories.append(advisory)
    if not advisories:
        return None
    names = [advisory.cves[0] for advisory in advisories]
    blocks = "\n".join(map(debians_tracker.block, advisories))
    _edit(project.sources, lambda text: f"{text.rstrip()}\n\n{blocks}")
    _edit(project.path / "pyproject.toml", raised)
    line = f"- {', '.join(names)} {'is' if len(names) == 1 else 'are'} known to `pgpoolctl check`.\n"
    _edit(project.path / "CHANGELOG.md", lambda text: update.added(text, line))
    _commit(project, f"{PREFIX}{names[-1]}", f"Note {names[0]}{' and others' if names[1:] else ''}", blocks, report)
    return ExitStatus.GOOD


def _release(project: Project, pins: Pins, request: update.UpdateRequest, report: Report) -> ExitStatus | None:
    """Pin the newest release that is not open, and make it the default until it is proved."""
    new = [version for version in reversed(watch.new_releases(pins)) if not _is_open(project, f"{PREFIX}{version}")]
    if not new:
        return None
    every = tuple(release.name for release in ReleaseTable.load(project.releases).releases)
    status = update.run(project, replace(request, version=new[0], releases=request.releases or every))
    if status is ExitStatus.GOOD:
        _edit(project.sources, lambda text: f'default = "{new[0]}"\n\n{text}')
        body = f"build-deb builds it by default until ./invoke update --proved {new[0]}.\n"
        _commit(project, f"{PREFIX}{new[0]}", f"Pin pgpool-II {new[0]}", body, report)
    return status


def raised(text: str) -> str:
    """Return pyproject.toml with the project's next version."""
    return _VERSION.sub(lambda match: f'{match[1]}{int(match[2]) + 1}"', text, count=1)


def _edit(path: Path, edited: Callable[[str], str]) -> None:
    atomic.write(path, edited(path.read_text(encoding="utf-8")))


def _is_open(project: Project, branch: str) -> bool:
    places = (f"refs/heads/{branch}", f"refs/remotes/origin/{branch}")
    return bool(git(project.path, "for-each-ref", *places))


def _commit(project: Project, branch: str, subject: str, body: str, report: Report) -> None:
    git(project.path, "switch", "--quiet", "--create", branch)
    git(project.path, "add", "--", "packaging", "pyproject.toml", "CHANGELOG.md")
    git(project.path, "commit", "--quiet", "--message", subject, "--message", body)
    report(f"{subject}: on the branch {branch}")
