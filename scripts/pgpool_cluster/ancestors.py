"""Where root may touch a file: below folders that belong to root, and in which no other user may write."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import stat
from pathlib import Path

MOST_LINKS = 40
_LOOSE = stat.S_IWGRP | stat.S_IWOTH


def intruder(path: Path) -> str:
    """Return which ancestor of a path somebody else than root owns or may write in, and "" for none.

    A folder is looked at once by a command: no other user can change what is root's alone.
    """
    return _intruder(path.absolute().parent)


def forget() -> None:
    """Look at every folder again: one has just been made."""
    _intruder.cache_clear()


@functools.cache
def _intruder(folder: Path) -> str:
    """Return which part of an absolute path to a folder, itself among them, is not root's alone.

    Symbolic links of root's are followed. A folder like /tmp, where only owners rename and delete (the sticky bit), may
    be an ancestor of the folder. An ancestor that does not exist is one that only root can make.
    """
    trusted = {0, os.getuid()}
    here, ahead = Path("/"), _steps(folder)
    links, shared = 0, False
    while True:
        try:
            found = here.lstat()
        except FileNotFoundError:
            return f"others may make {here}" if shared else ""
        except OSError as error:
            return f"{here}: {error.strerror}"
        if found.st_uid not in trusted:
            return f"{here} belongs to {_name(found.st_uid)}"
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MOST_LINKS:
                return f"{here} is one of too many symbolic links"
            here, ahead = Path("/"), [*ahead, *_steps(here.parent / here.readlink())]
            continue
        shared = is_shared(found) or bool(found.st_mode & stat.S_IWGRP and _has_list(here))
        if shared and not (found.st_mode & stat.S_ISVTX and ahead):
            return f"{here} may be written in by others"
        if not ahead:
            return ""
        step = ahead.pop()
        here = here.parent if step == ".." else here / step


def _steps(folder: Path) -> list[str]:
    return list(reversed(folder.parts[1:]))


def is_shared(found: os.stat_result) -> bool:
    """Tell whether more than a folder's owner, and root's group, may write in it by its mode."""
    others = _LOOSE if found.st_gid != 0 else stat.S_IWOTH
    return bool(found.st_mode & others)


def _has_list(folder: Path) -> bool:
    """Tell whether a folder has an access control list, by which more than owner and group may write (acl(5))."""
    with contextlib.suppress(OSError):
        return "system.posix_acl_access" in os.listxattr(folder, follow_symlinks=False)
    return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
