"""Keep records of WAL that only this node had: parts of WAL files, and a text that names the transactions.

A record is a folder called `<UTC time>-<node>-<timeline>`. It is written beside the others and renamed once it is on
the disk, so it is whole or not there. The oldest records are deleted first: there are at most MOST_RECORDS, of
MOST_BYTES in total.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...decision.facts.diverged_report import DivergedReport
from ...decision.facts.facts import Lsn
from ...ground import files, log
from ...ground.errors import ServerError
from .wal_files import SEGMENT, server_errors

MOST_RECORDS = 10
MOST_RECORD_BYTES = 2**30
MOST_BYTES = 2 * 2**30
SUMMARY, TRANSACTIONS = "summary.json", "transactions.txt"
_RESERVE_BYTES = 32 * 2**20
"""Space that stays free on the disk, for the small files of the agent."""
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z0-9.-]{1,63}-[0-9]{1,10}")
_UNFINISHED = "."
_PAGE_BYTES = 8192
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class WalPart:
    """Bytes of a WAL file, from `first` to `last`, in whole pages; its first page, which identifies it, is added."""

    path: Path
    first: int
    last: int

    @property
    def bytes(self) -> int:
        """The size on the disk."""
        return self.last - self.first + (_PAGE_BYTES if self.first else 0)


def segment_name(timeline: int, lsn: Lsn, segment_bytes: int) -> str:
    """Return the name of the WAL file with this position."""
    number, per_log = lsn.bytes // segment_bytes, 2**32 // segment_bytes
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def first_on_disk(wal: Path, timeline: int, start: Lsn, segment_bytes: int) -> Lsn | None:
    """Return `start`, or the beginning of the first later WAL file of the timeline if that one is gone.

    None if the folder has no such file. Raises ServerError if the folder cannot be read.
    """
    wanted = segment_name(timeline, start, segment_bytes)
    with server_errors(wal):
        every = (path.name for path in wal.iterdir())
        names = sorted(name for name in every if SEGMENT.fullmatch(name) and name[:8] == wanted[:8])
    found = next((name for name in names if name >= wanted), None)
    if found is None or found == wanted:
        return start if found else None
    return Lsn((int(found[8:16], 16) * (2**32 // segment_bytes) + int(found[16:], 16)) * segment_bytes)


def parts(wal: Path, timeline: int, start: Lsn, end: Lsn, segment_bytes: int) -> tuple[WalPart, ...]:
    """Return the parts of the WAL files in a folder that have the WAL from `start` to `end`, and one more page.

    The end of the last record may be on that page: a record's length does not include the headers of pages.
    """
    found = []
    at = start.bytes - start.bytes % segment_bytes
    reach = end.bytes + _PAGE_BYTES
    while at < reach:
        first = max(start.bytes - at, 0) // _PAGE_BYTES * _PAGE_BYTES
        last = min(-(-(reach - at) // _PAGE_BYTES) * _PAGE_BYTES, segment_bytes)
        path = wal / segment_name(timeline, Lsn(at), segment_bytes)
        if path.exists():
            found.append(WalPart(path, first, last))
        at += segment_bytes
    return tuple(found)


def listed(folder: Path) -> tuple[DivergedReport, ...]:
    """Return the records, the oldest first. A folder without a valid summary is left out."""
    try:
        names = sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except OSError:
        return ()
    found = (_summary(folder / name) for name in names[-MOST_RECORDS:])
    return tuple(one for one in found if one is not None)


def store(folder: Path, report: DivergedReport, wal: Iterable[WalPart], text: str) -> DivergedReport:
    """Write a record and return its report with its size; on return, it is durable.

    Older records are deleted if they leave too little space. Raises ServerError if the disk is full or a file cannot be
    read or written; no part of the record is left then.
    """
    wal = tuple(wal)
    needed = sum(part.bytes for part in wal) + len(text.encode()) + _PAGE_BYTES
    partial = folder / f"{_UNFINISHED}{report.name}"
    with server_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        _sweep(folder)
        _make_room(folder, needed)
        report = dataclasses.replace(report, bytes=needed)
        try:
            partial.mkdir(mode=0o700)
            for part in wal:
                _copy(part, partial / part.path.name)
            files.write(partial / TRANSACTIONS, text.encode(), 0o600)
            files.write(partial / SUMMARY, json.dumps(dataclasses.asdict(report), indent=1).encode() + b"\n", 0o600)
            files.sync_folder(partial)
            partial.rename(folder / report.name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        files.sync_folder(folder)
    return report


def named(node: str, timeline: int) -> str:
    """Return the name of a new record."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{node}-{timeline}"


def _summary(record: Path) -> DivergedReport | None:
    try:
        found = files.read(record / SUMMARY)
        values = json.loads(found.text) if found else {}
        report = DivergedReport(**{one.name: values[one.name] for one in dataclasses.fields(DivergedReport)})
    except (ServerError, ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers = (report.timeline, report.committed, report.other, report.bytes)
    texts = (report.begins, report.ends)
    right = all(type(one) is int for one in numbers) and all(type(one) is str for one in texts)
    return report if right and report.name == record.name else None


def _sweep(folder: Path) -> None:
    """Delete what an interrupted `store` or a deletion has left."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        if _NAME.fullmatch(path.name.removeprefix(_UNFINISHED)):
            shutil.rmtree(path)


def _make_room(folder: Path, needed: int) -> None:
    """Delete the oldest records until a new one of this size fits; raises ServerError if even that would not do."""
    records = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    sizes = {path: _size_of(path) for path in records}
    if _free(folder) + sum(sizes.values()) < needed + _RESERVE_BYTES:
        size, reserve = -(-needed // 2**20), _RESERVE_BYTES // 2**20
        reason = f"the record has {size} MB, and {reserve} MB have to stay free"
        raise ServerError(f"{folder}: the disk is full: {reason}", hint=f"free space on the disk of {folder}")
    while records and (
        len(records) >= MOST_RECORDS
        or sum(sizes[path] for path in records) + needed > MOST_BYTES
        or _free(folder) < needed + _RESERVE_BYTES
    ):
        oldest = records.pop(0)
        log.warning(f"deleting {oldest}, the oldest record of diverged WAL, to make room for a new one")
        shutil.rmtree(oldest.rename(folder / f"{_UNFINISHED}{oldest.name}"))


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _size_of(record: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in record.iterdir())


def _copy(part: WalPart, target: Path) -> None:
    """Copy the part to the same place of a sparse file of the same size, and sync it."""
    size = part.path.stat().st_size
    with part.path.open("rb") as reader, target.open("xb") as writer:
        os.fchmod(writer.fileno(), 0o600)
        for first, last in ((0, _PAGE_BYTES), (part.first, part.last)):
            reader.seek(first)
            writer.seek(first)
            while chunk := reader.read(min(_CHUNK_BYTES, last - reader.tell())):
                writer.write(chunk)
        writer.truncate(size)
        writer.flush()
        os.fsync(writer.fileno())
