"""Store files in a node's WAL archive, restore them, and prune those that no recovery needs any more.

PostgreSQL starts this program for every WAL file (archive_command, restore_command), so it imports the standard
library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import files, paths, plain
from .errors import ClusterError, ExitStatus, OperationError, ServerError, UsageError
from .record import Record
from .usage import Usage

COMPRESSED = ".gz"
PRUNE_SECONDS = 600.0
STOP = 200
"""Exit status that aborts a recovery: PostgreSQL treats 1 to 125 as the end of the archive
(src/backend/access/transam/xlogarchive.c, 15 to 18)."""
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_NAME = re.compile(r"[0-9A-F]{24}(?:\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
_CHUNK_BYTES = 1 << 17
_ZEROS = bytes(_CHUNK_BYTES)
_COMPRESSION_LEVEL = 1
_SEGMENT_SIZES = frozenset(1 << power for power in range(20, 31))
"""Possible sizes of a WAL file in bytes (initdb --wal-segsize)."""


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
        return self.name[8:24] if _SEGMENT.match(self.name) else ""


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


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not the name of a WAL file", hint="PostgreSQL passes the name as %f")
    return name


def store(source: Path, folder: Path, *, compress: bool) -> None:
    """Put a WAL file into the archive; it is durable when this returns.

    The archive holds the whole file or none under its name, even after a crash or a power loss. A file that is already
    archived is never replaced: the same content counts as success, whether compressed or not. Raises OperationError if
    the content differs, ServerError if a file cannot be read or written.
    """
    name = _checked(source.name)
    target = folder / (name + COMPRESSED if compress else name)
    with _explained(folder), source.open("rb") as reader, _partial(target) as (partial, writer):
        there = _find(name, folder)
        if there is None:
            _compress(reader, writer) if compress else _copy_sparse(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
            partial.rename(target)
        elif _same(there, reader):
            _sync(there)
        else:
            hint = "it belongs to another history of this server: move it away, and archiving continues by itself"
            raise OperationError(f"{there} already exists, and {source} differs from it", hint=hint)
        files.sync_folder(folder)


@contextlib.contextmanager
def _explained(written: Path) -> Iterator[None]:
    """Turn an OSError into a ServerError; the error of a failed write names no path, so it gets `written`."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or written
        hint = f"free space if df {written} shows a full disk; otherwise make postgres its owner"
        raise ServerError(f"{where}: {error.strerror or error}", hint=hint) from error


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open an empty, locked file beside `target`, and delete it afterwards unless it was renamed.

    A file left by a crash is reused. The lock matters because an earlier archive_command can survive a crash of the
    postmaster.
    """
    partial = target.with_name(f".{target.name}.tmp")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = partial.stat().st_ino == os.fstat(handle).st_ino
        except (BlockingIOError, FileNotFoundError):
            own = False
        if not own:
            raise OperationError(f"another process is copying {target.name}", hint="PostgreSQL retries by itself")
        try:
            stream.truncate(0)
            yield partial, stream
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()


def _copy_sparse(reader: IO[bytes], writer: IO[bytes]) -> None:
    """Copy and leave holes for zeros: a file that archive_timeout switched early is mostly zeros."""
    for chunk in _chunks(reader):
        if chunk == _ZEROS[: len(chunk)]:
            writer.seek(len(chunk), os.SEEK_CUR)
        else:
            writer.write(chunk)
    writer.truncate()


def _chunks(reader: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    return iter(lambda: reader.read(_CHUNK_BYTES), b"")


def _compress(reader: IO[bytes], writer: IO[bytes]) -> None:
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_COMPRESSION_LEVEL, fileobj=writer, mtime=0) as packed:
        for chunk in _chunks(reader):
            packed.write(chunk)


def _find(name: str, folder: Path) -> Path | None:
    candidates = (folder / name, folder / f"{name}{COMPRESSED}")
    return next((path for path in candidates if path.exists()), None)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == COMPRESSED else path.open("rb")


_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def _same(there: Path, reader: IO[bytes]) -> bool:
    try:
        with _open(there) as other:
            while True:
                chunk = reader.read(_CHUNK_BYTES)
                if chunk != other.read(_CHUNK_BYTES):
                    return False
                if not chunk:
                    return True
    except _DAMAGED:
        return False


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def restore(name: str, folder: Path, target: Path) -> bool:
    """Copy a file from the archive to `target`; returns False if the archive does not have it.

    `target` is replaced atomically, when the copy is complete. The copy is not synced to disk, because PostgreSQL does
    that. Raises OperationError for a damaged file, ServerError if there is no archive or a file cannot be read or
    written.
    """
    _checked(name)
    with _explained(target.parent):
        there = _find(name, folder)
        if there is None:
            if not folder.is_dir():
                raise ServerError(f"there is no archive {folder}", hint="run pgpoolctl apply, which creates it")
            return False
        with _partial(target) as (partial, writer):
            _unpack(there, writer)
            if _SEGMENT.fullmatch(name) and writer.tell() not in _SEGMENT_SIZES:
                raise _damaged(there, f"{writer.tell()} bytes is not the size of a WAL file")
            writer.flush()
            partial.rename(target)
    return True


def source_of_copy() -> str:
    """Return the node that this node is being copied from, "" if none."""
    return Record.load(paths.RECORD).copying


def fetch(name: str, source: str, target: Path) -> bool:
    """Copy a file from another node's archive to `target` over ssh; False if it is missing or the node unreachable."""
    _checked(name)
    if not plain.is_host_name(source):
        return False
    command = ["ssh", "-F", str(paths.SSH_CONFIG), source, f"wal {name}"]
    with _explained(target.parent), _partial(target) as (partial, writer):
        nothing = subprocess.DEVNULL
        answer = subprocess.run(command, stdin=nothing, stdout=writer, stderr=nothing, check=False)
        size = os.fstat(writer.fileno()).st_size
        if answer.returncode != 0 or (_SEGMENT.fullmatch(name) and size not in _SEGMENT_SIZES):
            return False
        partial.rename(target)
    return True


def send(name: str, folder: Path, writer: IO[bytes]) -> bool:
    """Write a file from this node's archive to `writer`, unpacked; False if it is missing. Raises as `restore`."""
    there = _find(_checked(name), folder)
    if there is not None:
        _unpack(there, writer)
        writer.flush()
    return there is not None


def _unpack(there: Path, writer: IO[bytes]) -> None:
    try:
        with _open(there) as reader:
            for chunk in _chunks(reader):
                writer.write(chunk)
    except _DAMAGED as error:
        raise _damaged(there, str(error)) from error


def _damaged(path: Path, reason: str) -> OperationError:
    hint = "recovery cannot continue past this file: take a new copy with pgpoolctl recover"
    return OperationError(f"{path} is damaged: {reason}", hint=hint)


def expendable(stored: Iterable[Stored], *, before: float, keep_from: str = "") -> list[Stored]:
    """Return the files that can be deleted, the oldest WAL first.

    Kept are files stored at or after `before`; WAL from the file `keep_from` on, on any timeline, which a running
    recovery needs; and all history files, which are small and lead a recovery from one timeline to the next.
    """
    first = _checked(keep_from)[8:24] if keep_from else ""
    old = [file for file in stored if file.position and file.time < before]
    gone = [file for file in old if not (first and file.position >= first)]
    return sorted(gone, key=lambda file: (file.position, file.name))


def prune(folder: Path, *, keep_hours: float, keep_from: str = "") -> tuple[str, ...]:
    """Delete expendable files and leftovers of crashes, and return their names; raises ClusterError.

    `keep_from` is the first WAL file that a running recovery needs, "" if none is running.
    """
    before = time.time() - keep_hours * 3600
    with _explained(folder):
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
    with _explained(folder):
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
            if _NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    file = Stored(Path(entry.path), name, status.st_blocks * 512, status.st_mtime)
                    (partial if unfinished else whole).append(file)
    return whole, partial
