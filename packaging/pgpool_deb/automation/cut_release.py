"""`./invoke release VERSION`: the changelog and the version of a release, in one commit with a tag.

The project's version is that of the package pgpool2-cluster, so the next build makes packages of the release. The
version of the packages of pgpool-II is upstream's, and does not change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.own_git import git
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project

BRANCH = "main"
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_TAG = "v{version}"
_UNRELEASED = re.compile(r"^## Unreleased\n(?P<changes>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_PROJECT_VERSION = re.compile(r'(?m)^version = "[^"]+"')
_DOCUMENTS = ("README.md", "docs")
"""Where packages are named with the version that they have at present."""


def run(project: Project, version: str, report: Report, *, today: date) -> ExitStatus:
    """Commit and tag the release of `version`, dated `today`; push nothing.

    Raises UsageError, before anything changes, unless `version` is greater than every earlier one, the checkout is on
    the branch main without uncommitted changes, and the changelog has something unreleased. Raises MachineError where
    git fails; the checkout is then as it was.
    """
    _refuse_odd_state(project)
    _refuse_old_version(project, version)
    edits = _edits(project, version, today)
    head = git(project.path, "rev-parse", "HEAD").strip()
    tag = _TAG.format(version=version)
    for path, text in edits.items():
        atomic.write(path, text)
    try:
        git(project.path, "commit", "--quiet", "--all", "--message", f"Release pgpool2-cluster {version}")
        git(project.path, "tag", "--annotate", "--message", f"pgpool2-cluster {version}", tag)
    except MachineError:
        git(project.path, "reset", "--quiet", "--hard", head)
        raise
    report(f"{version}: {', '.join(str(path.relative_to(project.path)) for path in edits)}; committed and tagged {tag}")
    report(f"push it: git push origin {BRANCH} {tag}")
    return ExitStatus.GOOD


def _refuse_odd_state(project: Project) -> None:
    if git(project.path, "status", "--porcelain"):
        raise UsageError(
            "the checkout has uncommitted changes", hint="commit or stash the changes that git status shows"
        )
    branch = git(project.path, "branch", "--show-current").strip()
    if branch != BRANCH:
        where = f"on the branch {branch}" if branch else "at a detached HEAD"
        raise UsageError(f"the checkout is {where}, but releases are cut on {BRANCH}", hint=f"git switch {BRANCH}")


def _refuse_old_version(project: Project, version: str) -> None:
    wanted = _numbers(version)
    if wanted is None:
        raise UsageError(f"{version!r} is not a version", hint="use three numbers, for example 0.3.0")
    tags = git(project.path, "tag", "--list", _TAG.format(version="*")).split()
    last = _greatest([project.version, *(tag.removeprefix("v") for tag in tags)])
    if wanted <= (_numbers(last) or ()):
        raise UsageError(
            f"{version} is not greater than {last}, the last version",
            hint="choose a greater one; git tag --list shows the released versions",
        )


def _numbers(version: str) -> tuple[int, ...] | None:
    found = _VERSION.fullmatch(version)
    return tuple(map(int, found.groups())) if found else None


def _greatest(versions: Iterable[str]) -> str:
    return max(versions, key=lambda version: _numbers(version) or ())


def _edits(project: Project, version: str, today: date) -> dict[Path, str]:
    """Return the files to change, with their new text; raises UsageError where one is not as expected."""
    changelog, settings = project.path / "CHANGELOG.md", project.path / "pyproject.toml"
    return {
        changelog: dated(changelog.read_text(encoding="utf-8"), version, today),
        settings: with_version(settings.read_text(encoding="utf-8"), version),
        **_renamed_in_documents(project, version),
    }


def dated(changelog: str, version: str, today: date) -> str:
    """Return the changelog with its unreleased changes under `version`; raises UsageError where there are none."""
    found = _UNRELEASED.search(changelog)
    if found is None or not found["changes"].strip():
        hint = "describe what users notice below `## Unreleased` in CHANGELOG.md"
        raise UsageError("CHANGELOG.md has no unreleased changes", hint=hint)
    title = f"## Unreleased\n\n## {version} - {today.isoformat()}\n"
    return f"{changelog[: found.start()]}{title}{found['changes']}{changelog[found.end() :]}"


def with_version(settings: str, version: str) -> str:
    """Return pyproject.toml with the project's version."""
    return _PROJECT_VERSION.sub(f'version = "{version}"', settings, count=1)


def _renamed_in_documents(project: Project, version: str) -> dict[Path, str]:
    """Return the documents that name packages of the present version (0.2.0+deb13+1), with the new one."""
    old, new = f"{project.version}+deb", f"{version}+deb"
    texts: dict[Path, str] = {}
    for name in git(project.path, "ls-files", "-z", "--", *_DOCUMENTS).split("\0"):
        path = project.path / name
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            if old in text:
                texts[path] = re.sub(rf"(?<![\d.]){re.escape(old)}", new, text)
    return texts
