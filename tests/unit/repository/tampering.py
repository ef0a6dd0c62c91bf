"""Doing something to a repository, and seeing that nothing else has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_deb.errors import ExitStatus, ToolkitError

Harm = Callable[[Path], None]
"""Does something to a repository, or to dist/<release>."""
OUTSIDE = "outside"
"""A folder beside the repository, which nobody may touch."""


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All below a folder with its type, and what it holds or leads to; nothing is followed, and pipes are not read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        data = str(path.readlink()).encode() if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else b""
        if path.name != ".lock" or not stat.S_ISREG(mode):
            found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), data)
    return found


def moved_out(path: Path) -> None:
    """Put a part of the repository elsewhere, and a link in its place."""
    repo = next(parent for parent in path.parents if parent.name == "repo")
    target = repo.with_name(OUTSIDE) / path.name
    path.rename(target)
    path.symlink_to(target)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def refused(run: Callable[[], object], repo: Path, status: ExitStatus = ExitStatus.USAGE) -> str:
    """Return the line of an error that leaves the repository, and what is outside, as they were."""
    before = everything(repo.parent)
    with pytest.raises(ToolkitError) as raised:
        run()
    assert everything(repo.parent) == before
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")
    assert raised.value.exit_status is status
    return lines[0]
