"""`./invoke release` in a clone of a project: its commits, its tags, and its refusals."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from tests.unit.upstream.repositories import git

from pgpool_deb.automation import cut_release, opening, update
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.project import Project

HERE = Project(Path(__file__).parents[3])
DAY = date(2026, 12, 1)
CHANGELOG = """# Changelog

## Unreleased

### Added

- A new thing.

## 0.2.0 - 2026-01-02

### Added

- The first thing.
"""
RELEASED = CHANGELOG.replace("## Unreleased\n", "## Unreleased\n\n## 0.3.0 - 2026-12-01\n")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone of a project with the real pyproject.toml, at 0.2.0."""
    origin = tmp_path / "origin"
    (origin / "docs").mkdir(parents=True)
    shutil.copy(HERE.path / "pyproject.toml", origin)
    settings = (origin / "pyproject.toml").read_text()
    (origin / "pyproject.toml").write_text(cut_release.with_version(settings, "0.2.0"))
    (origin / "CHANGELOG.md").write_text(CHANGELOG)
    (origin / "docs" / "packages.md").write_text("`0.2.0+deb13+1` and 10.2.0+deb13+1, from 192.0.2.0\n")
    (origin / "docs" / "other.md").write_text("Nothing of versions.\n")
    git(origin, "init", "-q", "--initial-branch=main")
    git(origin, "add", ".")
    git(origin, "commit", "-q", "-m", "first")
    git(tmp_path, "clone", "-q", str(origin), "clone")
    for name, value in {"NAME": "T", "EMAIL": "t@example.org"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return Project(tmp_path / "clone")


def cut(project: Project, version: str = "0.3.0") -> list[str]:
    lines: list[str] = []
    assert cut_release.run(project, version, lines.append, today=DAY) is ExitStatus.GOOD
    return lines


def state(project: Project) -> tuple[str, ...]:
    """Return the state of a checkout that a refusal must not change."""
    commands = (("rev-parse", "HEAD"), ("tag", "--list"), ("status", "--porcelain"), ("diff",))
    return tuple(git(project.path, *words) for words in commands)


def test_a_release_is_one_commit_with_a_tag(clone: Project) -> None:
    before = git(clone.path, "rev-parse", "HEAD")
    lines = cut(clone)
    assert clone.version == "0.3.0"
    assert (clone.path / "CHANGELOG.md").read_text() == RELEASED
    assert git(clone.path, "rev-parse", "HEAD~1", "v0.3.0~1").split() == [before, before]
    assert git(clone.path, "cat-file", "-t", "v0.3.0") == "tag"
    assert git(clone.path, "log", "-1", "--format=%s") == "Release pgpool2-cluster 0.3.0"
    assert git(clone.path, "status", "--porcelain") == ""
    assert "git push origin main v0.3.0" in lines[-1]


def test_documents_name_the_packages_of_the_release(clone: Project) -> None:
    cut(clone)
    assert (clone.path / "docs" / "packages.md").read_text() == ("`0.3.0+deb13+1` and 10.2.0+deb13+1, from 192.0.2.0\n")
    changed = git(clone.path, "diff", "--name-only", "HEAD~1").splitlines()
    assert changed == ["CHANGELOG.md", "docs/packages.md", "pyproject.toml"]


def test_the_real_project_has_all_that_a_release_changes() -> None:
    settings = (HERE.path / "pyproject.toml").read_text()
    assert cut_release.with_version(settings, HERE.version) == settings
    assert cut_release.with_version(settings, "99.0.0").count('"99.0.0"') == 1
    assert "## Unreleased\n" in (HERE.path / "CHANGELOG.md").read_text()


def test_changes_after_a_release_are_unreleased_again(clone: Project) -> None:
    cut(clone)
    changelog = update.added((clone.path / "CHANGELOG.md").read_text(), "- A later thing.\n")
    assert changelog == RELEASED.replace("## Unreleased\n", "## Unreleased\n\n### Added\n\n- A later thing.\n", 1)
    (clone.path / "CHANGELOG.md").write_text(changelog)
    git(clone.path, "commit", "-q", "--all", "-m", "more")
    cut(clone, "0.3.1")
    assert (
        "## 0.3.1 - 2026-12-01\n\n### Added\n\n- A later thing.\n\n## 0.3.0 -"
        in (clone.path / "CHANGELOG.md").read_text()
    )


def edited(project: Project) -> None:
    (project.path / "docs" / "other.md").write_text("More.\n")


def with_a_new_file(project: Project) -> None:
    (project.path / "new.py").touch()


def on_a_branch(project: Project) -> None:
    git(project.path, "switch", "-q", "--create", "topic")


def detached(project: Project) -> None:
    git(project.path, "switch", "-q", "--detach")


def already_tagged(project: Project) -> None:
    git(project.path, "tag", "v0.10.0")


def raised_for_faults(project: Project) -> None:
    """Raise the version, as `./invoke update --open` does for Debian's advisories."""
    settings = project.path / "pyproject.toml"
    settings.write_text(opening.raised(opening.raised(settings.read_text()).replace("0.2.1", "0.3.0")))
    git(project.path, "commit", "-q", "--all", "-m", "raise")


def without_changes(project: Project) -> None:
    text = CHANGELOG.replace("### Added\n\n- A new thing.\n\n", "", 1)
    (project.path / "CHANGELOG.md").write_text(text)
    git(project.path, "commit", "-q", "--all", "-m", "nothing")


@pytest.mark.parametrize(
    ("damage", "version", "message"),
    [
        (edited, "0.3.0", "the checkout has uncommitted changes"),
        (with_a_new_file, "0.3.0", "the checkout has uncommitted changes"),
        (on_a_branch, "0.3.0", "the checkout is on the branch topic, but releases are cut on main"),
        (detached, "0.3.0", "the checkout is at a detached HEAD, but releases are cut on main"),
        (already_tagged, "0.9.0", "0.9.0 is not greater than 0.10.0, the last version"),
        (raised_for_faults, "0.3.0", "0.3.0 is not greater than 0.3.1, the last version"),
        (without_changes, "0.3.0", "CHANGELOG.md has no unreleased changes"),
        (lambda _: None, "0.2.0", "0.2.0 is not greater than 0.2.0, the last version"),
        (lambda _: None, "0.1.9", "0.1.9 is not greater than 0.2.0, the last version"),
        (lambda _: None, "0.3", "'0.3' is not a version"),
        (lambda _: None, "v0.3.0", "'v0.3.0' is not a version"),
        (lambda _: None, "0.03.0", "'0.03.0' is not a version"),
    ],
)
def test_a_refusal_is_one_line_with_a_hint_and_changes_nothing(
    clone: Project, damage: Callable[[Project], None], version: str, message: str
) -> None:
    damage(clone)
    before = state(clone)
    with pytest.raises(UsageError) as caught:
        cut_release.run(clone, version, print, today=DAY)
    assert caught.value.message == message
    assert caught.value.hint
    assert "\n" not in str(caught.value.message + caught.value.hint)
    assert state(clone) == before


@pytest.mark.parametrize("what", ["commit", "tag"])
def test_if_git_fails_the_checkout_stays_unchanged(clone: Project, what: str) -> None:
    if what == "commit":
        hook = clone.path / ".git" / "hooks" / "pre-commit"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        hook.chmod(0o755)
    else:
        git(clone.path, "config", "tag.gpgSign", "true")
        git(clone.path, "config", "gpg.program", "false")
    before = state(clone)
    with pytest.raises(MachineError, match=f"git {what} failed"):
        cut_release.run(clone, "0.3.0", print, today=DAY)
    assert state(clone) == before


def test_the_command_refuses_with_exit_status_2(clone: Project) -> None:
    """The command runs in the real checkout, which may be in any state, so the version is always invalid."""
    command = [str(HERE.path / "invoke"), "release", "not-a-version"]
    answer = subprocess.run(command, cwd=clone.path, capture_output=True, text=True, check=False)
    assert answer.returncode == ExitStatus.USAGE
    message, hint = answer.stderr.splitlines()
    assert message
    assert hint.startswith("hint: ")
