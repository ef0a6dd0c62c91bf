"""An untrusted checkout is read without running the programs that its configuration names."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.upstream.repositories import Repository, git

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.upstream import git_checkout

Trap = Callable[[Repository, Path], None]


def program(place: Path) -> tuple[Path, Path]:
    """Return a program, and the file that it creates when it runs."""
    ran, path = place / "ran", place / "trap"
    path.write_text(f"#!/bin/sh\ntouch {ran}\n")
    path.chmod(0o755)
    return path, ran


def fsmonitor(repository: Repository, trap: Path) -> None:
    git(repository.root, "config", "core.fsmonitor", str(trap))


def clean_filter(repository: Repository, trap: Path) -> None:
    (repository.root / ".git" / "info" / "attributes").write_text("* filter=trap\n")
    git(repository.root, "config", "filter.trap.clean", str(trap))
    git(repository.root, "config", "filter.trap.process", str(trap))
    (repository.root / "src" / "main.c").write_text("int changed;\n")


def filter_of_the_tree(repository: Repository, trap: Path) -> None:
    (repository.root / ".gitattributes").write_text("*.c filter=trap\n")
    repository.commit("4.6.1")
    git(repository.root, "config", "filter.trap.clean", str(trap))
    (repository.root / "src" / "main.c").write_text("int changed;\n")


def included(repository: Repository, trap: Path) -> None:
    other = repository.root / ".git" / "other"
    other.write_text(f"[core]\nfsmonitor = {trap}\n")
    git(repository.root, "config", "include.path", str(other))


def fetching(repository: Repository, trap: Path) -> None:
    """Remove the commit's tree, and configure a promisor remote with a program that fetches it."""
    git(repository.root, "config", "core.repositoryformatversion", "1")
    git(repository.root, "config", "extensions.partialClone", "origin")
    git(repository.root, "config", "remote.origin.url", "ssh://example.org/x")
    git(repository.root, "config", "remote.origin.promisor", "true")
    git(repository.root, "config", "core.sshCommand", str(trap))
    tree = git(repository.root, "rev-parse", "HEAD^{tree}")
    (repository.root / ".git" / "index").unlink()
    (repository.root / ".git" / "objects" / tree[:2] / tree[2:]).unlink()


def hooks(repository: Repository, trap: Path) -> None:
    for name in ("post-index-change", "post-checkout", "reference-transaction"):
        shutil.copy(trap, repository.root / ".git" / "hooks" / name)
    (repository.root / "src" / "main.c").touch()


def submodule(repository: Repository, trap: Path) -> None:
    inner = repository.root / "inner"
    shutil.copytree(repository.root / ".git", inner / ".git")
    commit = git(repository.root, "rev-parse", "HEAD")
    git(repository.root, "update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
    git(repository.root, "commit", "-q", "-m", "inner")
    git(inner, "config", "core.fsmonitor", str(trap))


TRAPS: tuple[Trap, ...] = (fsmonitor, clean_filter, filter_of_the_tree, included, fetching, hooks, submodule)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_reading_a_checkout_runs_no_program_that_it_names(repository: Repository, tmp_path: Path, trap: Trap) -> None:
    path, ran = program(tmp_path)
    repository.commit("4.6.1", "V4_6_1")
    trap(repository, path)
    with suppress(UsageError):  # a checkout that git cannot read without the program is refused
        repository.source()
    assert not ran.exists()


def test_reading_an_untrusted_worktree_runs_no_program(repository: Repository, tmp_path: Path) -> None:
    path, ran = program(tmp_path)
    repository.commit("4.6.1", "V4_6_1")
    git(repository.root, "worktree", "add", "-q", str(tmp_path / "wt"), "V4_6_1")
    fsmonitor(repository, path)
    assert repository.source(tmp_path / "wt").version == "4.6.1"
    assert not ran.exists()


@pytest.mark.parametrize("name", ["HEAD", "config", "index", "packed-refs", "refs/tags/V4_6_1", ""])
def test_a_pipe_in_a_checkout_is_refused_at_once(repository: Repository, name: str) -> None:
    repository.commit("4.6.1", "V4_6_1")
    path = repository.root / ".git" / name
    if not name:
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    end = threading.Timer(10, lambda: os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK)))
    end.start()
    try:
        with pytest.raises(UsageError, match="is not a regular file"):
            repository.source()
    finally:
        end.cancel()


def test_git_has_a_time_limit(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.commit("4.6.1", "V4_6_1")
    (repository.root / "src" / "main.c").touch()
    os.mkfifo(repository.root / ".gitattributes")
    monkeypatch.setattr(git_checkout, "_TIMEOUT_SECONDS", 2)
    with pytest.raises(UsageError, match="git did not end within 2 seconds"):
        repository.source()


def test_line_endings_are_read_as_the_owner_configured(repository: Repository) -> None:
    git(repository.root, "config", "core.autocrlf", "true")
    (repository.root / "src" / "main.c").write_bytes(b"int main;\r\n")
    repository.commit("4.6.1", "V4_6_1")
    (repository.root / "src" / "main.c").touch()
    assert repository.source().version == "4.6.1"


def test_a_checkout_of_sha256_objects_is_read(repository: Repository) -> None:
    shutil.rmtree(repository.root / ".git")
    git(repository.root, "init", "-q", "--object-format=sha256")
    commit = repository.commit("4.6.1", "V4_6_1")
    assert len(commit) == 64
    assert repository.source().version == "4.6.1"
