"""Identify the files that `apply` writes on this machine, and read what is in their places."""

from __future__ import annotations

import grp
import hashlib
import pwd
import stat
from dataclasses import replace
from pathlib import Path

from ..ground import ancestors, files
from ..ground.errors import ServerError
from ..ground.files import OddFileError, PlainFile
from ..machine import hands
from ..machine.memory import Applied
from .rendering import rendered_paths
from .rendering.rendered_file import File, FileShare
from .rendering.rendered_paths import FOLDER


def there(file: File, *, replaceable: bool) -> PlainFile | None:
    """Return the file on disk; raises OddFileError if it is not a plain file, unless `apply` may simply replace it."""
    path = Path(file.path)
    uid, _, _ = owner_of(file)
    why = ancestors.intruder(path) if uid == 0 else ""
    if why:
        hint = "chown root and chmod go-w that folder"
        raise ServerError(f"{path} belongs to root and is not written: {why}", hint=hint)
    # postgres owns postgresql.conf, and could name any folder there.
    if path.name in rendered_paths.STUBS and not ancestors.intruder(path):
        hint = f"correct data_directory in postgresql.conf, or chown -R postgres: {path.parent} if the data is there"
        raise ServerError(f"{path} belongs to postgres and is not written to a folder of root", hint=hint)
    try:
        return hands.read(path, uid)
    except OddFileError:
        if replaceable and file.share is FileShare.WHOLE and files.kind(path) != stat.S_IFDIR:
            return None
        raise


def content(path: Path, file: File | None = None) -> bytes | None:
    """Return the content of a file, None if there is none; raises ServerError."""
    found = hands.read(path, owner_of(file)[0] if file else None)
    return found.content if found else None


def hash_of(content: bytes) -> str:
    """Return the hash that the memory of `apply` has for this content."""
    return hashlib.sha256(content).hexdigest()


def owner_of(file: File) -> tuple[int, int, int]:
    """Return the user, the group and the mode of a file; raises ServerError if the user does not exist."""
    try:
        return pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid, file.mode
    except KeyError as error:
        raise ServerError(f"the user {file.owner} does not exist", hint="apt install postgresql-common") from error


def claimed() -> Applied:
    """Return the hashes that an older package kept in a folder of postgres, limited to files that `apply` can write.

    postgres could have changed them, so they only ever justify leaving a file alone.
    """
    claimed = Applied.claimed()
    return replace(claimed, files={name: said for name, said in claimed.files.items() if could_be_ours(Path(name))})


def could_be_ours(path: Path) -> bool:
    """Return whether `apply` writes this file on some server, so that `withdraw` may delete it.

    The recorded paths alone do not justify a deletion: a file in a folder of root must be one that is rendered.
    """
    if ancestors.intruder(path):
        return path.name in rendered_paths.IN_OTHERS_FOLDERS  # a process of postgres deletes it
    rendered = (*rendered_paths.IN_ROOTS_FOLDERS, *rendered_paths.DROP_INS, rendered_paths.UNIT_FILE)
    return str(path.parent) == str(FOLDER) or str(path) in rendered
