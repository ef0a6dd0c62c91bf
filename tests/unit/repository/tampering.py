"""Tamper with a repository, and check that a refused command changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import ExitStatus, ToolkitError

Harm = Callable[[Path], None]
"""A function that tampers with a repository, or with dist/<release>."""
OUTSIDE = "outside"
"""The name of a folder beside the repository, which no command may change."""


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the type and the contents or link target of each file below a folder.

    It follows no links and reads no pipes.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        data = str(path.readlink()).encode() if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else b""
        if path.name != ".lock" or not stat.S_ISREG(mode):
            found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), data)
    return found


def moved_out(path: Path) -> None:
    """Move a part of the repository outside, and replace it by a link."""
    repo = next(parent for parent in path.parents if parent.name == "repo")
    target = repo.with_name(OUTSIDE) / path.name
    path.rename(target)
    path.symlink_to(target)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def refused(run: Callable[[], object], repo: Path, status: ExitStatus = ExitStatus.USAGE) -> str:
    """Return the message of an error; asserts that it has a hint, and that nothing in or beside `repo` has changed."""
    before = everything(repo.parent)
    with pytest.raises(ToolkitError) as raised:
        run()
    assert everything(repo.parent) == before
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")
    assert raised.value.exit_status is status
    return lines[0]
