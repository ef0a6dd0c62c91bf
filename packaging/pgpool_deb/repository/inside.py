"""Read files of a repository that other users can write to; never open a link out of it, a pipe or a device."""

from __future__ import annotations

import errno
import stat
from enum import StrEnum
from pathlib import Path

from pgpool_deb.ground.errors import MachineError


class Lack(StrEnum):
    """The reason why a path of a repository is no file of it; in a message, the value follows the path."""

    MISSING = "is missing"
    OUTSIDE = "points outside the repository"
    IRREGULAR = "is not a regular file"


def find(root: Path, path: str) -> Path | Lack:
    """Return the path of a file below `root` with links resolved, or the reason why it is no file of `root`.

    Raises MachineError if this user has no permission.
    """
    try:
        base, place = root.resolve(), (root / path).resolve()
        if base not in place.parents:
            return Lack.OUTSIDE
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Lack.MISSING
    except RuntimeError:  # a loop of symbolic links, before Python 3.13
        return Lack.IRREGULAR
    except OSError as error:
        if error.errno == errno.ELOOP:
            return Lack.IRREGULAR
        raise unreadable(root / path, error) from error
    return place if stat.S_ISREG(mode) else Lack.IRREGULAR


def read(root: Path, path: str) -> bytes | Lack:
    """Return the contents of a file below `root`, or the reason why it is none; raises MachineError if unreadable."""
    place = find(root, path)
    if isinstance(place, Lack):
        return place
    try:
        return place.read_bytes()
    except OSError as error:
        raise unreadable(root / path, error) from error


def names(root: Path, path: str) -> list[str]:
    """Return the sorted names in a folder below `root`; empty if it is missing or leads out of `root`.

    Raises MachineError if this user may not read it.
    """
    try:
        place = (root / path).resolve()
        found = root.resolve() in place.parents and place.is_dir()
        return sorted(one.name for one in place.iterdir()) if found else []
    except RuntimeError:
        return []
    except OSError as error:
        if error.errno == errno.ELOOP:
            return []
        raise unreadable(root / path, error) from error


def unreadable(path: Path, error: OSError) -> MachineError:
    """Return the error for a file that this user may not read."""
    return MachineError(f"{path}: {error.strerror}", hint="run this command as a user with read permission")
