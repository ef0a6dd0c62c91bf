"""The folder of a repository: files that never change, and one pointer that is switched with one rename.

    pool/main/p/pgpool2/…      every file ever published; none is written twice
    snapshot/<time>/dists/…    the indexes of one state; what did not change is a hard link to the state before
    snapshot/<time>/pool       a symbolic link to pool/, which holds whatever a state names
    current                    the pointer: a symbolic link to the newest snapshot
    dists, index.html, keyring symbolic links through `current`
    repository.json            what the repository is: `format` and `url`

A state is written beside, below .partial-PID/, and gets its name when it is whole. Then `current` is replaced. A writer
that is killed leaves the old or the new state, and at most files that no index names: half files are swept by the next
writer, whole ones give way to others of their name, and `prune` removes them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from pgpool_deb import atomic
from pgpool_deb.download import sha256_of
from pgpool_deb.errors import MachineError, UsageError

from .stanzas import PoolFile

MARK = "repository.json"
FORMAT = 1
POINTER = "current"
BEHIND_POINTER = ("dists", "index.html", "keyring")
"""Names in the repository's folder that are links through the pointer."""
_PARTIAL = ".partial-"
_MANY = 100
_MODE = 0o644
_AS_IT_WAS = "is there room? The repository is as it was"


class Found(Enum):
    """What the pool has under the name of a file."""

    NOTHING = "nothing"
    SAME = "the same file"
    OTHER = "a file with other bytes"


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder that holds a repository of ours."""

    path: Path
    url: str

    @classmethod
    def open(cls, path: Path) -> Repository:
        """Return the repository in a folder; raises UsageError where it is none of ours."""
        path = path.absolute()
        try:
            mark = json.loads((path / MARK).read_text(encoding="utf-8"))
            known = mark["format"] == FORMAT
            url = str(mark["url"])
        except FileNotFoundError as error:
            raise UsageError(f"{path} is no repository of ours", hint="./invoke publish --to DIR makes one") from error
        except OSError as error:
            raise MachineError(f"{path / MARK}: {error.strerror}", hint="may this user read it?") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path / MARK} is damaged", hint='it holds {"format": 1, "url": …}') from error
        if not known:
            raise UsageError(f"{path} has a format that this version does not know", hint="git pull, then again")
        _refuse_links(path)
        return cls(path, url)

    @classmethod
    def begin(cls, path: Path, url: str | None) -> Repository:
        """Return the repository in a folder, which is made where it is missing or empty.

        `url` is where clients find the folder, a file: address of it by default. It is remembered; another one that is
        given later takes its place. Raises UsageError where the folder holds anything else.
        """
        path = path.absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()} - {".lock"}
            if names and MARK not in names:
                raise UsageError(
                    f"{path} holds other things than a repository", hint="--to takes a new or an empty folder"
                )
            if not names or (url is not None and url != cls.open(path).url):
                mark = {"format": FORMAT, "url": (url or f"file://{path}").rstrip("/")}
                atomic.write(path / MARK, json.dumps(mark) + "\n")
            (path / "pool").mkdir(exist_ok=True)
            (path / "snapshot").mkdir(exist_ok=True)
            for name in BEHIND_POINTER:
                if not (path / name).is_symlink():
                    (path / name).symlink_to(f"{POINTER}/{name}")
        except OSError as error:
            raise MachineError(
                f"{path}: {error.strerror}", hint="--to takes a folder that this user can write"
            ) from error
        return cls.open(path)

    @contextmanager
    def locked(self, report: Callable[[str], None]) -> Iterator[None]:
        """Hold the repository's lock, which the kernel takes back from a writer that ends; a wait is reported."""
        with (self.path / ".lock").open("a+", encoding="ascii") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                report(
                    f"waiting for the run with process id {handle.read().strip() or '?'}, which writes to {self.path}"
                )
                fcntl.flock(handle, fcntl.LOCK_EX)
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            self._sweep()
            yield

    @property
    def state(self) -> Path | None:
        """The folder of the state that clients see; None where nothing has been published."""
        pointer = self.path / POINTER
        return pointer.resolve() if pointer.is_symlink() and pointer.exists() else None

    @property
    def states(self) -> tuple[Path, ...]:
        """The folders of all states that are kept, oldest first."""
        return tuple(sorted(path for path in (self.path / "snapshot").iterdir() if path.is_dir()))

    @contextmanager
    def writing(self, moment: int) -> Iterator[Path]:
        """Yield a folder for the state of this time; once the block has ended well, clients see it."""
        name = named(moment)
        partial = self.path / f"{_PARTIAL}{os.getpid()}"
        partial.mkdir()
        try:
            (partial / "state").mkdir()
            (partial / "state" / "pool").symlink_to("../../pool")
            yield partial / "state"
            _all_flushed([str(path) for path in (partial / "state").rglob("*") if not path.is_symlink()], self.path)
            (partial / "state").rename(self.path / "snapshot" / name)
            (partial / POINTER).symlink_to(f"snapshot/{name}")
            _flushed(self.path / "snapshot")
            (partial / POINTER).replace(self.path / POINTER)
            _flushed(self.path)
        except OSError as error:
            raise MachineError(f"{self.path}: {error.strerror}", hint=_AS_IT_WAS) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def find(self, file: PoolFile) -> Found:
        """Tell what the pool has under the name of a file; raises UsageError where that is a symbolic link."""
        place = f"{self.path}/{file.path}"
        if _is_link(place, str(self.path)):
            raise UsageError(f"{place} is a symbolic link, or below one", hint="the pool holds files alone: remove it")
        if not os.path.exists(place):  # noqa: PTH110 - of thousands
            return Found.NOTHING
        same = os.stat(place).st_size == file.size and sha256_of(Path(place)) == file.sha256  # noqa: PTH116
        return Found.SAME if same else Found.OTHER

    def drop(self, file: PoolFile) -> None:
        """Remove a file of the pool that no state names."""
        (self.path / file.path).unlink()

    def admit(self, files: Iterable[tuple[Path | bytes, PoolFile]]) -> None:
        """Put files that were checked, or their bytes, into the pool.

        None has its name before it is whole and on the disk.
        """
        partial = self.path / f"{_PARTIAL}{os.getpid()}"
        try:
            partial.mkdir()
            places = []
            for number, (origin, file) in enumerate(files):
                _written(origin, f"{partial}/{number}")
                places.append(f"{self.path}/{file.path}")
            folders = sorted({place.rpartition("/")[0] for place in places})
            for folder in folders:
                Path(folder).mkdir(parents=True, exist_ok=True)
            _all_flushed([f"{partial}/{number}" for number in range(len(places))], self.path)
            for number, place in enumerate(places):
                os.rename(f"{partial}/{number}", place)  # noqa: PTH104 - of thousands
            _all_flushed(folders, self.path)
        except OSError as error:
            raise MachineError(f"{self.path}: {error.strerror}", hint=_AS_IT_WAS) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed writers left: half files, and states that clients never saw."""
        for left in self.path.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        seen = self.state
        for state in self.states:
            if seen is None or state.name > seen.name:
                shutil.rmtree(state)


def _written(origin: Path | bytes, target: str) -> None:
    """Write a file that every user may read, whatever the umask is."""
    if isinstance(origin, Path):
        shutil.copyfile(origin, target)
        os.chmod(target, _MODE)  # noqa: PTH101 - of thousands
    else:
        with open(target, "wb", buffering=0) as handle:  # noqa: PTH123 - of thousands
            handle.write(origin)
            os.fchmod(handle.fileno(), _MODE)


def named(moment: int) -> str:
    """Return the name of the state of a time, in seconds since 1970."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")


def moment_of(state: Path) -> int:
    """Return the time of a state by its name, in seconds since 1970."""
    return int(datetime.strptime(state.name, "%Y%m%dT%H%M%S%z").timestamp())


def _is_link(place: str, above: str) -> bool:
    """Tell whether a path, or a folder of it below another, is a symbolic link."""
    return place != above and (os.path.islink(place) or _is_link(place.rpartition("/")[0], above))  # noqa: PTH114


def _refuse_links(path: Path) -> None:
    """Raise UsageError where a folder that is written to is a symbolic link, which may lead out of the repository."""
    for name in ("pool", "snapshot"):
        if (path / name).is_symlink():
            raise UsageError(
                f"{path / name} is a symbolic link", hint="a repository holds its own folders: move it there"
            )
    pointer = path / POINTER
    if pointer.is_symlink() and not pointer.readlink().as_posix().startswith("snapshot/"):
        raise UsageError(f"{pointer} leads out of the repository", hint=f"ln -sfn snapshot/TIME {pointer} sets it")


def _all_flushed(paths: Sequence[str], below: Path) -> None:
    """Have the kernel write these files; where there are many, all that the file system has yet to write."""
    if len(paths) > _MANY:
        subprocess.run(["sync", "--file-system", str(below)], check=True)
    else:
        for path in paths:
            _flushed(path)


def _flushed(path: str | Path) -> None:
    """Have the kernel write a file or folder to the disk: a power cut leaves what a name says."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
