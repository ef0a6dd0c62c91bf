"""The pool of a repository: each published file is added once and never overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.upstream.download import sha256_of

from .stanzas import PoolFile

PARTIAL = ".partial-"
"""The prefix of the names of incomplete files and folders."""
_MANY = 100
_MODE = 0o644


class Found(Enum):
    """The state of a file's name in the pool."""

    NOTHING = "nothing"
    SAME = "the same file"
    OTHER = "a file with other bytes"


def find(repository: Path, file: PoolFile) -> Found:
    """Return whether the pool has this file, another one of its name, or none; raises UsageError as `place_of` does."""
    place = place_of(repository, file.path)
    if not os.path.exists(place):  # noqa: PTH110 - of thousands
        return Found.NOTHING
    same = os.stat(place).st_size == file.size and sha256_of(Path(place)) == file.sha256  # noqa: PTH116
    return Found.SAME if same else Found.OTHER


def place_of(repository: Path, path: str) -> str:
    """Return the path of a file in the pool, whether or not it exists.

    Raises UsageError if the path is a symbolic link or below one, or exists and is not a regular file.
    """
    place = f"{repository}/{path}"
    if _is_link(place, str(repository)):
        raise UsageError(
            f"{place} is a symbolic link, or below one", hint="remove it: the pool may contain only regular files"
        )
    if os.path.exists(place) and not os.path.isfile(place):  # noqa: PTH110, PTH113 - of thousands
        raise UsageError(f"{place} is not a regular file", hint="remove it: the pool may contain only regular files")
    return place


def _is_link(place: str, above: str) -> bool:
    """Return whether a path, or one of its folders below `above`, is a symbolic link."""
    return place != above and (os.path.islink(place) or _is_link(place.rpartition("/")[0], above))  # noqa: PTH114


def admit(repository: Path, files: Sequence[tuple[Path | bytes, PoolFile]]) -> Iterator[Path]:
    """Add checked files, or their bytes, to the pool, and yield each path that is new.

    A file gets its name only after it is complete and flushed to the disk. Raises OSError, and UsageError as `place_of`
    does.
    """
    places = [place_of(repository, file.path) for _, file in files]
    folders = sorted({place.rpartition("/")[0] for place in places})
    partial = repository / f"{PARTIAL}{os.getpid()}"
    try:
        partial.mkdir()
        for number, (origin, _) in enumerate(files):
            _written(origin, f"{partial}/{number}")
        for folder in folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
        all_flushed([f"{partial}/{number}" for number in range(len(places))], repository)
        for number, place in enumerate(places):
            new = not os.path.exists(place)  # noqa: PTH110 - of thousands
            os.rename(f"{partial}/{number}", place)  # noqa: PTH104 - of thousands
            if new:
                yield Path(place)
        all_flushed(folders, repository)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _written(origin: Path | bytes, target: str) -> None:
    """Write a file that every user may read, regardless of the umask."""
    if isinstance(origin, Path):
        shutil.copyfile(origin, target)
        os.chmod(target, _MODE)  # noqa: PTH101 - of thousands
    else:
        with open(target, "wb", buffering=0) as handle:  # noqa: PTH123 - of thousands
            handle.write(origin)
            os.fchmod(handle.fileno(), _MODE)


def all_flushed(paths: Sequence[str], below: Path) -> None:
    """Flush these files to the disk; if there are more than 100, flush the whole file system."""
    if len(paths) > _MANY:
        subprocess.run(["sync", "--file-system", str(below)], check=True)
    else:
        for path in paths:
            flushed(path)


def flushed(path: str | Path) -> None:
    """Flush a file or folder to the disk, so that a name never refers to missing contents after a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
