"""Decide where root may touch a file: only below folders that root owns and no other user can write to."""

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
    """Return which ancestor of a path a user other than root owns or can write to, "" if there is none.

    The result is cached for the life of the process: no other user can change a folder that only root can write to.
    """
    return _intruder(path.absolute().parent)


def forget() -> None:
    """Clear the cache, because a folder has just been created."""
    _intruder.cache_clear()


@functools.cache
def _intruder(folder: Path) -> str:
    """Return which part of an absolute path, the folder itself included, another user than root controls.

    Symbolic links owned by root are followed. A sticky folder such as /tmp, in which only owners rename and delete, may
    be an ancestor but not the folder itself. An ancestor that does not exist is safe if only root can create it.
    """
    trusted = {0, os.getuid()}
    here, ahead = Path("/"), _steps(folder)
    links, shared = 0, False
    while True:
        try:
            found = here.lstat()
        except FileNotFoundError:
            return f"other users can create {here}" if shared else ""
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
            return f"other users can write to {here}"
        if not ahead:
            return ""
        step = ahead.pop()
        here = here.parent if step == ".." else here / step


def _steps(folder: Path) -> list[str]:
    return list(reversed(folder.parts[1:]))


def is_shared(found: os.stat_result) -> bool:
    """Return whether a folder's mode lets anyone but its owner, or the group root, write to it."""
    others = _LOOSE if found.st_gid != 0 else stat.S_IWOTH
    return bool(found.st_mode & others)


def _has_list(folder: Path) -> bool:
    """Return whether a folder has an access control list, which can let further users write to it (acl(5))."""
    with contextlib.suppress(OSError):
        return "system.posix_acl_access" in os.listxattr(folder, follow_symlinks=False)
    return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
