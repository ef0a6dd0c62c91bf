"""`./invoke prune`: remove old snapshots, and files of the pool that no state names any more."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.progress import Report

from . import suites
from .tree import Repository, moment_of

_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """The options of `./invoke prune`, parsed; without `older` (days) it keeps every snapshot."""

    place: Path
    older: int | None = None
    yes: bool = False


def run(request: PruneRequest, report: Report) -> ExitStatus:
    """Report superfluous snapshots and files, and with `yes` remove them.

    Files that a suite or a kept snapshot names stay. Raises UsageError if a state cannot be read, because the files
    that it names are then unknown.
    """
    if request.older is not None and request.older < 1:
        raise UsageError(f"--older {request.older} is too small", hint="--older takes days, 1 or more")
    repository = Repository.open(request.place)
    with repository.locked(report):
        dropped = _old(repository, request.older)
        named: set[str] = set()
        for state in repository.states:
            if state not in dropped:
                named |= suites.files_named(state)
        kept_sources = {Path(path).name.rpartition("_")[0] for path in named}
        files = [path for path in sorted((repository.path / "pool").rglob("*")) if path.is_file()]
        superfluous = [
            path for path in files
            if str(path.relative_to(repository.path)) not in named and not _record_of(path, kept_sources)
        ]  # fmt: skip
        verb = "removed" if request.yes else "would be removed"
        for path in (*dropped, *superfluous):
            report(f"{path.relative_to(repository.path)}: {verb}")
        size = sum(path.stat().st_size for path in superfluous)
        report(f"{len(dropped)} snapshots and {len(superfluous)} files ({size // 1_000_000} MB) {verb}")
        if request.yes:
            for state in dropped:  # first, because only these snapshots name the files
                shutil.rmtree(state)
            for path in superfluous:
                path.unlink()
        elif dropped or superfluous:
            report("hint: run it again with --yes to remove them")
    return ExitStatus.GOOD


def _old(repository: Repository, older: int | None) -> list[Path]:
    if older is None:
        return []
    limit = time.time() - older * _DAY
    return [state for state in repository.states if state != repository.state and moment_of(state) < limit]


def _record_of(path: Path, kept: set[str]) -> bool:
    """Return whether a file is the .changes, .buildinfo, statement or a document of a kept package."""
    return path.suffix in (".changes", ".buildinfo", ".json", ".asc") and path.name.rpartition("_")[0] in kept
