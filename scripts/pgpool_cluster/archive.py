"""The WAL archive of a node: files go in whole, come out whole, and leave when nobody needs them any more.

PostgreSQL starts this for every WAL file (archive_command, restore_command), so it needs the standard library only.
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
"""Exit status that ends a recovery with an error: PostgreSQL takes one up to 125 for the end of the archive
(src/backend/access/transam/xlogarchive.c, 15 to 18)."""
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_NAME = re.compile(r"[0-9A-F]{24}(?:\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
_CHUNK = 1 << 17
_NOTHING = bytes(_CHUNK)
_LEVEL = 1
_SEGMENT_SIZES = frozenset(1 << power for power in range(20, 31))
"""Bytes that a WAL file can have (initdb --wal-segsize)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of the archive: `name` is PostgreSQL's, `time` when it came, in seconds of the epoch."""

    path: Path
    name: str
    bytes: int
    time: float

    @property
    def position(self) -> str:
        """What orders WAL files of all timelines, as pg_archivecleanup(1) does; "" of a history file."""
        return self.name[8:24] if _SEGMENT.match(self.name) else ""


def run(words: list[str]) -> int:
    """Run `store [--compress] %p %f` or `restore %f %p`, as archive_command and restore_command do."""
    verb, *rest = words or [""]
    if verb == "store" and len(rest) in (2, 3) and rest[:-2] in ([], ["--compress"]):
        source, name = Path(rest[-2]), rest[-1]
        if source.name != name:
            raise UsageError(f"{source} is not called {name}", hint="archive_command ends in %p %f")
        store(source, paths.ARCHIVE, compress=len(rest) == 3)
        return ExitStatus.GOOD
    if verb == "restore" and len(rest) == 2:
        return _restore_or_stop(*rest)
    raise UsageError("no such use of the archive", hint="archive-wal [--compress] %p %f, restore-wal %f %p")


def _restore_or_stop(name: str, target: str) -> int:
    """Only what is really not there may look like the end of the archive: recovery would end there, and be content."""
    try:
        return _restored(name, Path(target))
    except ClusterError as error:
        print(f"restore-wal: {error}", file=sys.stderr)
    except Exception as error:
        print(f"restore-wal: {error!r}", file=sys.stderr)
    return STOP


def _restored(name: str, target: Path) -> int:
    found = restore(name, paths.ARCHIVE, target) or fetch(name, source_of_copy(), target)
    return ExitStatus.GOOD if found else ExitStatus.FAILED


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a WAL file", hint="PostgreSQL gives it as %f")
    return name


def store(source: Path, folder: Path, *, compress: bool) -> None:
    """Put a WAL file into the archive, on the disk for good when this returns.

    Under its name there is the whole file or none, also after a crash or a power loss. One that is there already stays:
    with the same contents that is success, also if it is compressed and was not to be, or the other way round. Raises
    OperationError where it differs, ServerError where it cannot be read or written.
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
            hint = "it is of another history of this server: move it away, and archiving goes on by itself"
            raise OperationError(f"{there} is there already, and {source} differs from it", hint=hint)
        files.sync_folder(folder)


@contextlib.contextmanager
def _explained(written: Path) -> Iterator[None]:
    """What the system says against it becomes a ServerError; a write says no path, so it is `written`'s."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or written
        hint = f"it needs space, and postgres as its owner; df {written} shows how full it is"
        raise ServerError(f"{where}: {error.strerror or error}", hint=hint) from error


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open an empty file beside `target` that is gone afterwards, unless it was renamed; one of a crash is used again.

    It is locked: after a crash of the postmaster an archive_command of before can still be at work.
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
            raise OperationError(f"{target.name} is just being copied", hint="PostgreSQL tries again by itself")
        try:
            stream.truncate(0)
            yield partial, stream
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()


def _copy_sparse(reader: IO[bytes], writer: IO[bytes]) -> None:
    """Copy all but the zeros: what archive_timeout has switched early is mostly these, and takes no space then."""
    for chunk in _chunks(reader):
        if chunk == _NOTHING[: len(chunk)]:
            writer.seek(len(chunk), os.SEEK_CUR)
        else:
            writer.write(chunk)
    writer.truncate()


def _chunks(reader: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    return iter(lambda: reader.read(_CHUNK), b"")


def _compress(reader: IO[bytes], writer: IO[bytes]) -> None:
    with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=writer, mtime=0) as packed:
        for chunk in _chunks(reader):
            packed.write(chunk)


def _find(name: str, folder: Path) -> Path | None:
    found = (folder / name, folder / f"{name}{COMPRESSED}")
    return next((path for path in found if path.exists()), None)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == COMPRESSED else path.open("rb")


_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def _same(there: Path, reader: IO[bytes]) -> bool:
    try:
        with _open(there) as other:
            while True:
                chunk = reader.read(_CHUNK)
                if chunk != other.read(_CHUNK):
                    return False
                if not chunk:
                    return True
    except _DAMAGED:
        return False


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def restore(name: str, folder: Path, target: Path) -> bool:
    """Copy a file of the archive to `target`, which then is whole; False if the archive does not have it.

    What is at `target` until then is not touched. It need not outlive a power loss: PostgreSQL sees to that. Raises
    OperationError for a damaged file, ServerError where there is no archive or something cannot be read or written.
    """
    _checked(name)
    with _explained(target.parent):
        there = _find(name, folder)
        if there is None:
            if not folder.is_dir():
                raise ServerError(f"there is no archive {folder}", hint="pgpoolctl apply makes it")
            return False
        with _partial(target) as (partial, writer):
            _unpack(there, writer)
            if _SEGMENT.fullmatch(name) and writer.tell() not in _SEGMENT_SIZES:
                raise _damaged(there, f"{writer.tell()} bytes are no whole WAL file")
            writer.flush()
            partial.rename(target)
    return True


def source_of_copy() -> str:
    """Return the node that this one is being copied from, "" if none."""
    return Record.load(paths.RECORD).copying


def fetch(name: str, source: str, target: Path) -> bool:
    """Copy a file of another node's archive to `target`, over ssh; False if it has none, or is out of reach."""
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
    """Write a file of this node's archive to `writer`, unpacked; False if it is not there. Raises as `restore`."""
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
    hint = "nothing can be recovered beyond it from here: take a new copy, with pgpoolctl recover"
    return OperationError(f"{path} is damaged: {reason}", hint=hint)


def expendable(stored: Iterable[Stored], *, before: float, keep_from: str = "") -> list[Stored]:
    """Return what nobody needs any more, the oldest WAL first.

    Stays: what came at or after `before`; WAL from the file `keep_from` on, on any timeline, where a recovery needs
    that; and all history files: they are small, and show a recovery its way from one timeline to another.
    """
    first = _checked(keep_from)[8:24] if keep_from else ""
    gone = [
        one for one in stored if one.position and one.time < before and not (first and one.position >= first)
    ]  # fmt: skip
    return sorted(gone, key=lambda one: (one.position, one.name))


def prune(folder: Path, *, keep_hours: float, keep_from: str = "") -> tuple[str, ...]:
    """Remove what is expendable, and what crashes left behind, and return the names; raises ClusterError.

    `keep_from` names the first WAL file that a running recovery needs, "" if none runs.
    """
    before = time.time() - keep_hours * 3600
    with _explained(folder):
        stored, partials = _listed(folder)
        gone = [one.path for one in expendable(stored, before=before, keep_from=keep_from)]
        gone += [one.path for one in partials if one.time < before]
        for path in gone:
            path.unlink(missing_ok=True)
    return tuple(path.name for path in gone)


@dataclass(slots=True)
class Keeper:
    """Prunes an archive from time to time; `due` is when it is next, in seconds of time.monotonic()."""

    folder: Path
    due: float = 0.0

    def tend(self, *, keep_hours: float, keep_from: str = "") -> None:
        """Prune, at most once in PRUNE_SECONDS, also where that fails; raises ClusterError."""
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + PRUNE_SECONDS
            prune(self.folder, keep_hours=keep_hours, keep_from=keep_from)


def clear(folder: Path) -> None:
    """Empty the archive of a node whose data were replaced by a copy: it tells of what is gone. Raises ClusterError.

    It would get in the way, too: the node writes files of the same names again, and none is ever written over.
    """
    with _explained(folder):
        for one in [file for group in _listed(folder) for file in group]:
            one.path.unlink(missing_ok=True)
        files.sync_folder(folder)


def usage(folder: Path) -> Usage | None:
    """Return how full the archive is; None where there is none, or it cannot be looked at."""
    try:
        stored, partials = _listed(folder)
        disk = os.statvfs(folder)
    except OSError:
        return None
    segments = sorted((one for one in stored if one.position), key=lambda one: (one.position, one.name))
    ends = (segments[0].name, segments[-1].name) if segments else ("", "")
    size = sum(one.bytes for one in [*stored, *partials])
    return Usage(len(stored), size, 1 - disk.f_bavail / disk.f_blocks, *ends)


def _listed(folder: Path) -> tuple[list[Stored], list[Stored]]:
    """Return the archive's files and the unfinished ones; whatever else lies there is somebody else's."""
    whole: list[Stored] = []
    partial: list[Stored] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            unfinished = entry.name.startswith(".") and entry.name.endswith(".tmp")
            name = (entry.name[1:-4] if unfinished else entry.name).removesuffix(COMPRESSED)
            if _NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    one = Stored(Path(entry.path), name, status.st_blocks * 512, status.st_mtime)
                    (partial if unfinished else whole).append(one)
    return whole, partial
