"""Store single WAL files in an archive folder, and restore them; no copy is ever half complete.

PostgreSQL waits for this module once per WAL file, so it imports the standard library only, and little of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ...ground import files
from ...ground.errors import OperationError, ServerError, UsageError

COMPRESSED = ".gz"
SEGMENT = re.compile(r"[0-9A-F]{24}")
NAME = re.compile(r"[0-9A-F]{24}(?:\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
_CHUNK_BYTES = 1 << 17
_ZEROS = bytes(_CHUNK_BYTES)
_COMPRESSION_LEVEL = 1
SEGMENT_SIZES = frozenset(1 << power for power in range(20, 31))
"""Possible sizes of a WAL file in bytes (initdb --wal-segsize)."""


def checked_name(name: str) -> str:
    """Return `name` if it is the name of a WAL file, a history file or a backup label; raises UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not the name of a WAL file", hint="PostgreSQL passes the name as %f")
    return name


def store(source: Path, folder: Path, *, compress: bool) -> None:
    """Put a WAL file into the archive; it is durable when this returns.

    The archive holds the whole file or none under its name, even after a crash or a power loss. A file that is already
    archived is never replaced: the same content counts as success, whether compressed or not. Raises OperationError if
    the content differs, ServerError if a file cannot be read or written.
    """
    name = checked_name(source.name)
    target = folder / (name + COMPRESSED if compress else name)
    with server_errors(folder), source.open("rb") as reader, partial_file(target) as (partial, writer):
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
def server_errors(written: Path) -> Iterator[None]:
    """Turn an OSError into a ServerError; the error of a failed write names no path, so it gets `written`."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or written
        hint = f"free space if df {written} shows a full disk; otherwise make postgres its owner"
        raise ServerError(f"{where}: {error.strerror or error}", hint=hint) from error


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
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
    checked_name(name)
    with server_errors(target.parent):
        there = _find(name, folder)
        if there is None:
            if not folder.is_dir():
                raise ServerError(f"there is no archive {folder}", hint="run pgpoolctl apply, which creates it")
            return False
        with partial_file(target) as (partial, writer):
            _unpack(there, writer)
            if SEGMENT.fullmatch(name) and writer.tell() not in SEGMENT_SIZES:
                raise _damaged(there, f"{writer.tell()} bytes is not the size of a WAL file")
            writer.flush()
            partial.rename(target)
    return True


def send(name: str, folder: Path, writer: IO[bytes]) -> bool:
    """Write a file from this node's archive to `writer`, unpacked; False if it is missing. Raises as `restore`."""
    there = _find(checked_name(name), folder)
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
