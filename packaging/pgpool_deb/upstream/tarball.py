"""Check source tarballs before anything unpacks them, and write them so that equal trees give equal bytes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import posixpath
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Self, cast

from pgpool_deb.ground import atomic
from pgpool_deb.ground.errors import MachineError, ToolkitError, UsageError

MAX_UNPACKED_BYTES = 1 << 30
"""The limit of the unpacked size in bytes; pgpool-II has 40 MB, and a larger tarball is probably an attack."""

_LEFT_OUT = frozenset({".git", ".svn", ".hg", ".bzr", "CVS", ".pc"})
_UNREADABLE = (
    *(EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(tarfile.TarError, ValueError, OverflowError, RecursionError),  # from malformed headers
)
_COMPRESSIONS: tuple[tuple[bytes, str, Callable[..., object]], ...] = (
    (b"\x1f\x8b", "gz", gzip.open),
    (b"BZh", "bz2", bz2.open),
    (b"\xfd7zXZ\x00", "xz", lzma.open),
)


class _Fault(Exception):  # noqa: N818 - `check` turns it into the ToolkitError that its caller names
    """A fault of a tarball or of one of its entries, in words for the user."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a checked tarball.

    `texts` are the requested files that exist, decoded, by their path below the top directory `top`; `newest` is the
    latest time stamp (seconds since 1970); `commit` is the git commit that `git archive` recorded.
    """

    top: str
    newest: int
    commit: str | None
    texts: dict[str, str]


class EntryKind(StrEnum):
    """The kind of an entry of a source tree; a source has no other kinds."""

    FOLDER = "folder"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a source tree: `name` is its path below the tree's top, `target` the target of a link."""

    name: str
    path: Path
    kind: EntryKind
    executable: bool = False
    target: str = ""


def suffix(path: Path) -> str:
    """Return the compression of a tarball ("gz", "bz2", "xz") by its first bytes, not by its name.

    Raises UsageError for a file that dpkg-source would not accept as an .orig tarball.
    """
    return _compression(path)[0]


def _compression(path: Path) -> tuple[str, Callable[..., object]]:
    with path.open("rb") as handle:
        start = handle.read(6)
    for magic, name, opener in _COMPRESSIONS:
        if start.startswith(magic):
            return name, opener
    raise UsageError(
        f"{path} is not a tarball compressed with gzip, xz or bzip2",
        hint="--source takes .tar.gz, .tar.xz, .tar.bz2, an unpacked tree or a git checkout",
    )


def check(path: Path, texts: Sequence[str] = (), *, refusal: type[ToolkitError] = UsageError) -> Contents:
    """Read a tarball to its end and return its contents without unpacking it.

    Afterwards, these are guaranteed: the archive is complete; all entries are in one top directory; no name is
    absolute, contains `..` or control characters, or passes through a link; links stay inside the top directory; there
    are only files, folders and links. `texts` are paths below the top directory to return decoded.

    Raises `refusal` with the tarball, the entry and the fault; UsageError if the file is not a compressed tarball.
    """
    opener = _compression(path)[1]
    try:
        with cast(IO[bytes], opener(path, "rb")) as unpacked:
            return _read(unpacked, texts)
    except _Fault as fault:
        raise refusal(
            f"{path}: {fault}", hint="nothing was unpacked; get the tarball again from a trusted place"
        ) from fault
    except (*_UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise refusal(
            f"{path} is truncated or damaged: {error}", hint="nothing was unpacked; get the tarball again"
        ) from error


def _read(unpacked: IO[bytes], texts: Sequence[str]) -> Contents:
    scan = _Scan(texts)
    with tarfile.open(fileobj=unpacked, mode="r:", tarinfo=_Header) as archive:
        for member in archive:
            scan.add(archive, member)
        commit = archive.pax_headers.get("comment", "")
    # The compressed stream ends with a checksum, which is verified only when the stream is read to its end.
    if any(block.strip(b"\0") for block in iter(lambda: unpacked.read(1 << 16), b"")):
        raise _Fault("there is unreadable data after its last entry")
    return scan.result(commit if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit) else None)


class _Header(tarfile.TarInfo):
    """A header that is either parsed or refused. Without it, tarfile treats a malformed header as the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.TarError as error:
            if not buf.strip(b"\0"):
                raise  # the end of the archive: a block of zeros, or no data
            raise _Fault(f"the header of an entry is malformed ({error})") from error


class _Scan:
    """Collects facts about the entries of one archive, and refuses the first bad entry."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._requested = frozenset(texts)
        self._texts: dict[str, str] = {}
        self._tops: set[str] = set()
        self._names: set[str] = set()
        self._links: set[str] = set()
        self._newest = 0
        self._size = 0

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = _checked_name(member.name)
        if name == ".":
            return
        top, _, below = name.partition("/")
        self._tops.add(top)
        if len(self._tops) > 1:
            raise _Fault(f"more than one top directory: {_quoted(min(self._tops))} and {_quoted(max(self._tops))}")
        if not below and not member.isdir():
            raise _Fault(f"{_quoted(name)} is outside a top directory")
        self._check_kind(member, name)
        self._names.add(name)
        self._newest = max(self._newest, int(member.mtime))
        self._size += member.size
        if self._size > MAX_UNPACKED_BYTES:
            raise _Fault(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        if below in self._requested and member.isreg():
            handle = archive.extractfile(member)
            self._texts[below] = handle.read().decode("utf-8", "replace") if handle else ""

    def _check_kind(self, member: tarfile.TarInfo, name: str) -> None:
        if member.issym():
            self._links.add(name)
            _check_link(name, member.linkname, name.count("/") - 1)
        elif member.islnk():
            target = _checked_name(member.linkname)
            if target.partition("/")[0] not in self._tops:
                raise _Fault(f"hard link {_quoted(name)} points outside: {_quoted(target)}")
        elif not (member.isreg() or member.isdir()):
            raise _Fault(f"{_quoted(name)} is neither a file, a folder nor a link")

    def result(self, commit: str | None) -> Contents:
        if not self._tops:
            raise _Fault("it is empty")
        for name in self._names:
            folder = next((folder for folder in _folders_above(name) if folder in self._links), None)
            if folder:
                raise _Fault(f"{_quoted(name)} passes through the link {_quoted(folder)}")
        return Contents(next(iter(self._tops)), self._newest, commit, self._texts)


def _checked_name(name: str) -> str:
    """Return the name without a leading `./`; raises for a name that could escape the folder of unpacking."""
    if name.startswith("/"):
        raise _Fault(f"the name of {_quoted(name)} is absolute")
    if ".." in name.split("/"):
        raise _Fault(f"the name of {_quoted(name)} contains '..'")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise _Fault(f"the name of {_quoted(name)} contains control characters")
    return posixpath.normpath(name)


def _check_link(name: str, target: str, depth: int) -> None:
    """Raise if the link `name`, which is `depth` folders below the top directory, may point out of that directory.

    `..` is accepted only at the start of a target, because after a folder that is itself a link, it leads elsewhere.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or up > depth or ".." in parts[up:]:
        raise _Fault(f"link {_quoted(name)} points outside: {_quoted(target)}")


def _folders_above(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def _quoted(name: str) -> str:
    """Return a name so that any name fits on one line of a terminal."""
    return ascii(name[:200])


def tree(root: Path, names: Iterable[str] | None = None) -> tuple[Entry, ...]:
    """Return the sorted entries of a source tree: everything below `root`, or only the files called `names`.

    The folders of version control and quilt are left out. Raises UsageError for an entry that cannot be read or does
    not belong in a source (sockets, devices, links that point outside).
    """
    try:
        entries = [_entry(root, name) for name in (_walk(root) if names is None else _with_folders(names))]
    except _Fault as fault:
        raise UsageError(f"{root}: {fault}", hint="remove that file, or use --source with a clean source") from fault
    except OSError as error:
        raise _unreadable(error, root) from error
    return tuple(sorted(entries, key=lambda entry: os.fsencode(entry.name)))


def _walk(root: Path, below: str = "") -> Iterator[str]:
    with os.scandir(root / below) as items:
        for item in items:
            if item.name in _LEFT_OUT:
                continue
            yield below + item.name
            if item.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{below}{item.name}/")


def _with_folders(names: Iterable[str]) -> set[str]:
    files = set(names)
    return files | {folder for name in files for folder in _folders_above(name)}


def _entry(root: Path, name: str) -> Entry:
    path = root / name
    mode = path.lstat().st_mode
    _checked_name(name)
    if stat.S_ISLNK(mode):
        target = os.readlink(path)  # noqa: PTH115 - Path would normalise the target
        _check_link(name, target, name.count("/"))
        return Entry(name, path, EntryKind.LINK, target=target)
    if stat.S_ISDIR(mode):
        return Entry(name, path, EntryKind.FOLDER)
    if stat.S_ISREG(mode):
        return Entry(name, path, EntryKind.FILE, executable=bool(mode & stat.S_IXUSR))
    raise _Fault(f"{_quoted(name)} is neither a file, a folder nor a link")


def digest(entries: Iterable[Entry]) -> str:
    """Return a SHA-256 of a tree's names, kinds, executable bits, link targets and bytes, but not of its times."""
    total = hashlib.sha256()
    for entry in entries:
        _add_to(total, entry, _data(entry))
    return total.hexdigest()


def _add_to(total: hashlib._Hash, entry: Entry, data: bytes) -> None:
    name = os.fsencode(entry.name)
    total.update(f"{entry.kind} {entry.executable} {len(name)} {len(data)} ".encode())
    total.update(name)
    total.update(data)


def _data(entry: Entry) -> bytes:
    try:
        return entry.path.read_bytes() if entry.kind is EntryKind.FILE else os.fsencode(entry.target)
    except OSError as error:
        raise _unreadable(error, entry.path) from error


def _unreadable(error: OSError, path: Path) -> UsageError:
    return UsageError(
        f"{error.filename or path} cannot be read: {error.strerror or error}",
        hint="run this command as a user who may read the whole source",
    )


def write(entries: Iterable[Entry], top: str, date: int, destination: Path) -> str:
    """Write a .tar.gz of `entries` below the directory `top` and return the `digest` of its contents.

    Equal entries, `top` and `date` (seconds since 1970, the time stamp of every entry) give equal bytes: names in the
    given order, user and group 0, modes 0755 and 0644, no time in the gzip header. The file gets its name only when it
    is complete. Raises UsageError for an entry that cannot be read, MachineError if the tarball cannot be written.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(destination) as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            return _write(entries, top, date, packed)
    except OSError as error:
        raise MachineError(
            f"{destination} cannot be written: {error.strerror or error}", hint=f"free space in {destination.parent}"
        ) from error


def _write(entries: Iterable[Entry], top: str, date: int, packed: gzip.GzipFile) -> str:
    total = hashlib.sha256()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(_header(Entry(top, Path(), EntryKind.FOLDER), top, date, 0))
        for entry in entries:
            data = _data(entry)
            _add_to(total, entry, data)
            is_file = entry.kind is EntryKind.FILE
            header = _header(entry, f"{top}/{entry.name}", date, len(data) if is_file else 0)
            archive.addfile(header, io.BytesIO(data) if is_file else None)
    return total.hexdigest()


def _header(entry: Entry, name: str, date: int, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type = {EntryKind.FOLDER: tarfile.DIRTYPE, EntryKind.FILE: tarfile.REGTYPE, EntryKind.LINK: tarfile.SYMTYPE}[
        entry.kind
    ]
    header.mode = 0o644 if entry.kind is EntryKind.FILE and not entry.executable else 0o755
    header.mtime = date
    header.size = size
    header.linkname = entry.target
    return header
