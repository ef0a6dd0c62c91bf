"""Hard-link unchanged suites and by-hash indexes from earlier states into a new state."""

from __future__ import annotations

import os
from pathlib import Path

from pgpool_deb.ground.errors import UsageError

from .suites import listed
from .tree import Repository, moment_of

BY_HASH_SECONDS = 24 * 3600
BY_HASH_STATES = 3
"""Indexes stay available by hash for at least 24 hours and for at least 3 states.

A client may still be downloading the indexes of an earlier Release.
"""


def keep(before: Path, state: Path, name: str) -> None:
    """Hard-link an unchanged suite from the previous state into the new one."""
    for path in (before / "dists" / name).rglob("*"):
        if not path.is_dir() and "by-hash" not in path.parts:
            target = state / path.relative_to(before)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)


def link_by_hash(repository: Repository, state: Path, moment: int) -> None:
    """Create the by-hash folders of a new state: its own indexes, and earlier ones that clients may still request."""
    for folder in (state / "dists").iterdir():
        _link_indexes(folder, folder)
    states = repository.states
    young = [one for one in states if moment - moment_of(one) < BY_HASH_SECONDS]
    for before in {*young, *states[-BY_HASH_STATES + 1 :]}:
        for folder in (before / "dists").iterdir():
            _link_indexes(folder, state / "dists" / folder.name)


def _link_indexes(origin: Path, target: Path) -> None:
    for path, file in listed(origin).items():
        if path.endswith(".gz"):
            place = target / Path(path).parent / "by-hash" / "SHA256" / file.sha256
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                _link(origin / path, place)


def _link(path: Path, target: Path) -> None:
    """Hard-link a file; raises UsageError if it is missing or not a regular file."""
    if path.is_symlink() or not path.is_file():
        why = "is not a regular file" if path.is_symlink() or path.exists() else "is missing"
        raise UsageError(f"{path} {why}", hint="restore the file from an earlier state in snapshot/")
    os.link(path, target)
