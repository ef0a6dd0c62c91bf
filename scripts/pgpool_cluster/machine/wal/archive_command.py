"""Run archive_command and restore_command.

PostgreSQL starts this program for every WAL file, so it imports the standard library only. The modules that only a
recovery needs are imported there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ...ground import paths
from ...ground.errors import ClusterError, ExitStatus, UsageError
from .wal_files import SEGMENT, SEGMENT_SIZES, checked_name, partial_file, restore, server_errors, store

STOP = 200
"""Exit status that aborts a recovery: PostgreSQL treats 1 to 125 as the end of the archive
(src/backend/access/transam/xlogarchive.c, 15 to 18)."""


def run(words: list[str]) -> int:
    """Run `store [--compress] %p %f` or `restore %f %p`, as archive_command and restore_command do."""
    verb, *rest = words or [""]
    if verb == "store" and len(rest) in (2, 3) and rest[:-2] in ([], ["--compress"]):
        source, name = Path(rest[-2]), rest[-1]
        if source.name != name:
            raise UsageError(f"{source} is not called {name}", hint="end archive_command with %p %f")
        store(source, paths.ARCHIVE, compress=len(rest) == 3)
        return ExitStatus.GOOD
    if verb == "restore" and len(rest) == 2:
        return _restore_or_stop(*rest)
    raise UsageError("wrong arguments", hint="archive-wal [--compress] %p %f, restore-wal %f %p")


def _restore_or_stop(name: str, target: str) -> int:
    """Restore a file, and exit with 1 only if it is missing.

    PostgreSQL treats 1 as the end of the archive. For any other error it would finish recovery early, so the exit
    status is STOP.
    """
    try:
        return _restored(name, Path(target))
    except ClusterError as error:
        print(f"restore-wal: {error}", file=sys.stderr)
    except Exception as error:
        print(f"restore-wal: {error!r}", file=sys.stderr)
    return STOP


def _restored(name: str, target: Path) -> int:
    restored = restore(name, paths.ARCHIVE, target) or fetch(name, source_of_copy(), target)
    return ExitStatus.GOOD if restored else ExitStatus.FAILED


def source_of_copy() -> str:
    """Return the node that this node is being copied from, "" if none."""
    from ..record import Record  # noqa: PLC0415

    return Record.load(paths.RECORD).copying


def fetch(name: str, source: str, target: Path) -> bool:
    """Copy a file from another node's archive to `target` over ssh; False if it is missing or the node unreachable."""
    import subprocess  # noqa: PLC0415

    from ...ground import plain  # noqa: PLC0415

    checked_name(name)
    if not plain.is_host_name(source):
        return False
    command = ["ssh", "-F", str(paths.SSH_CONFIG), source, f"wal {name}"]
    with server_errors(target.parent), partial_file(target) as (partial, writer):
        nothing = subprocess.DEVNULL
        answer = subprocess.run(command, stdin=nothing, stdout=writer, stderr=nothing, check=False)
        size = os.fstat(writer.fileno()).st_size
        if answer.returncode != 0 or (SEGMENT.fullmatch(name) and size not in SEGMENT_SIZES):
            return False
        partial.rename(target)
    return True
