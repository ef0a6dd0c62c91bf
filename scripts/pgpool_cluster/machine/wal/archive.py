"""List, prune and empty a node's WAL archive."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...ground import files
from ...ground.usage import Usage
from .wal_files import COMPRESSED, NAME, SEGMENT, checked_name, server_errors

PRUNE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the archive under PostgreSQL's `name`; `time` is when it was stored, in seconds since the epoch."""

    path: Path
    name: str
    bytes: int
    time: float

    @property
    def position(self) -> str:
        """Sort key of WAL files across timelines, as in pg_archivecleanup(1); "" for a history file."""
        return self.name[8:24] if SEGMENT.match(self.name) else ""


def is_writable(folder: Path) -> bool:
    """Return whether this user can create files in the archive."""
    return os.access(folder, os.W_OK | os.X_OK)


def expendable(stored: Iterable[Stored], *, before: float, keep_from: str = "") -> list[Stored]:
    """Return the files that can be deleted, the oldest WAL first.

    Kept are files stored at or after `before`; WAL from the file `keep_from` on, on any timeline, which a running
    recovery needs; and all history files, which are small and lead a recovery from one timeline to the next.
    """
    first = checked_name(keep_from)[8:24] if keep_from else ""
    old = [file for file in stored if file.position and file.time < before]
    gone = [file for file in old if not (first and file.position >= first)]
    return sorted(gone, key=lambda file: (file.position, file.name))


def prune(folder: Path, *, keep_hours: float, keep_from: str = "") -> tuple[str, ...]:
    """Delete expendable files and leftovers of crashes, and return their names; raises ClusterError.

    `keep_from` is the first WAL file that a running recovery needs, "" if none is running.
    """
    before = time.time() - keep_hours * 3600
    with server_errors(folder):
        stored, partials = _listed(folder)
        gone = [file.path for file in expendable(stored, before=before, keep_from=keep_from)]
        gone += [file.path for file in partials if file.time < before]
        for path in gone:
            path.unlink(missing_ok=True)
    return tuple(path.name for path in gone)


@dataclass(slots=True)
class Keeper:
    """Prunes an archive periodically; `due` is the time of the next run, by time.monotonic()."""

    folder: Path
    due: float = 0.0

    def tend(self, *, keep_hours: float, keep_from: str = "") -> None:
        """Prune at most once per PRUNE_SECONDS, even after a failure; raises ClusterError."""
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + PRUNE_SECONDS
            prune(self.folder, keep_hours=keep_hours, keep_from=keep_from)


def clear(folder: Path) -> None:
    """Empty the archive of a node whose data was replaced by a copy; raises ClusterError.

    The archive describes a history that no longer exists. Its files would also block archiving: the node writes files
    with the same names again, and `store` never replaces one.
    """
    with server_errors(folder):
        for file in [file for group in _listed(folder) for file in group]:
            file.path.unlink(missing_ok=True)
        files.sync_folder(folder)


def usage(folder: Path) -> Usage | None:
    """Return the use of the archive; None if it does not exist or cannot be read."""
    try:
        stored, partials = _listed(folder)
        disk = os.statvfs(folder)
    except OSError:
        return None
    segments = sorted((file for file in stored if file.position), key=lambda file: (file.position, file.name))
    ends = (segments[0].name, segments[-1].name) if segments else ("", "")
    size = sum(file.bytes for file in [*stored, *partials])
    return Usage(len(stored), size, 1 - disk.f_bavail / disk.f_blocks, *ends)


def _listed(folder: Path) -> tuple[list[Stored], list[Stored]]:
    """Return the archive's files and the unfinished ones; other files in the folder are ignored."""
    whole: list[Stored] = []
    partial: list[Stored] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            unfinished = entry.name.startswith(".") and entry.name.endswith(".tmp")
            name = (entry.name[1:-4] if unfinished else entry.name).removesuffix(COMPRESSED)
            if NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    file = Stored(Path(entry.path), name, status.st_blocks * 512, status.st_mtime)
                    (partial if unfinished else whole).append(file)
    return whole, partial
