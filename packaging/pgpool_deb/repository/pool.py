"""The pool of a repository: files that are put there once, and never written twice."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

from pgpool_deb.download import sha256_of
from pgpool_deb.errors import UsageError

from .stanzas import PoolFile

PARTIAL = ".partial-"
"""What the names of files and folders begin with that are not whole yet."""
_MANY = 100


class Found(Enum):
    """What the pool has under the name of a file."""

    NOTHING = "nothing"
    SAME = "the same file"
    OTHER = "a file with other bytes"


def find(repository: Path, file: PoolFile) -> Found:
    """Tell what the pool has under the name of a file; raises UsageError as `place_of` does."""
    place = place_of(repository, file.path)
    if not place.exists():
        return Found.NOTHING
    same = place.stat().st_size == file.size and sha256_of(place) == file.sha256
    return Found.SAME if same else Found.OTHER


def place_of(repository: Path, path: str) -> Path:
    """Return where the pool has a file, or is to have it.

    Raises UsageError where that is a symbolic link, or below one, or anything else than a regular file.
    """
    place = repository / path
    above = [repository / parent for parent in Path(path).parents][:-1]
    if any(one.is_symlink() for one in (place, *above)):
        raise UsageError(f"{place} is a symbolic link, or below one", hint="the pool holds files alone: remove it")
    if place.exists() and not stat.S_ISREG(place.lstat().st_mode):
        raise UsageError(f"{place} is no regular file", hint="the pool holds files alone: remove it")
    return place


def admit(repository: Path, files: Sequence[tuple[Path, PoolFile]]) -> Iterator[Path]:
    """Put files that were checked into the pool, and yield each that is new there.

    None has its name before it is whole and on the disk. Raises OSError, and UsageError as `place_of` does.
    """
    partials: list[tuple[Path, Path]] = []
    places = [(origin, place_of(repository, file.path)) for origin, file in files]
    try:
        for origin, place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(f"{PARTIAL}{os.getpid()}-{place.name}")
            partials.append((partial, place))
            shutil.copyfile(origin, partial)
            partial.chmod(0o644)
        all_flushed([partial for partial, _ in partials], repository)
        for partial, place in partials:
            new = not place.exists()
            partial.rename(place)
            if new:
                yield place
        all_flushed(sorted({place.parent for _, place in partials}), repository)
    finally:
        for partial, _ in partials:
            partial.unlink(missing_ok=True)


def all_flushed(paths: Sequence[Path], below: Path) -> None:
    """Have the kernel write these files; where there are many, all that the file system has yet to write."""
    if len(paths) > _MANY:
        subprocess.run(["sync", "--file-system", str(below)], check=True)
    else:
        for path in paths:
            flushed(path)


def flushed(path: Path) -> None:
    """Have the kernel write a file or folder to the disk: a power cut leaves what a name says."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
