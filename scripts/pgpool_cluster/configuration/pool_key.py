"""Handle .pgpoolkey while pgpool-II still runs with the previous cluster key.

A running pgpool-II reads .pgpoolkey only at start-up, so the old key applies until it restarts.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from pathlib import Path

from ..definition import key as keys
from ..definition.key import ClusterKey
from ..ground import log, paths
from ..ground.errors import ServerError
from ..ground.files import OddFileError
from ..machine import hands, pgpool
from . import laid_files
from .rendering.rendered_file import File, FileShare
from .users import Users

POOL_KEY = paths.HOME / ".pgpoolkey"


def needed(key: ClusterKey) -> str:
    """Return the key that pool_passwd must be encrypted with."""
    return laid() if pgpool.of_another_key(key.fingerprint) else key.pool_key


def laid() -> str:
    """Return the key in .pgpoolkey, "" if there is none."""
    with contextlib.suppress(OddFileError):
        return (laid_files.content(POOL_KEY) or b"").decode(errors="replace").strip()
    return ""


def encrypted_with(users: Users, wanted: str) -> Users:
    """Return the users with entries encrypted for `wanted`; after a key change, .pgpoolkey still holds the old key."""
    old = laid()
    if not old or old == wanted:
        return replace(users, mark=keys.mark(wanted))
    entries = {name: keys.pool_passwd_entry_again(entry, old, wanted) for name, entry in users.entries.items()}
    return replace(users, entries=entries, mark=keys.mark(wanted))


def kept_for(file: File) -> File:
    """Return a file as a pgpool-II that still runs with the old key needs it: old .pgpoolkey, old role entries."""
    there = laid_files.content(Path(file.path)) or b""
    if Path(file.path) == POOL_KEY:
        return replace(file, content=there)
    if file.share is not FileShare.ENTRIES:
        return file
    roles = {line.split(b":", 1)[0] for line in file.content.splitlines()}
    lines = there.splitlines(keepends=True)
    return replace(file, content=b"".join(line for line in lines if line.split(b":", 1)[0] in roles))


def take_over_marker() -> None:
    """Move the key mark of a running pgpool-II from where an older package kept it, a folder of postgres.

    Without the mark, the agent would not know that a new key requires a restart of this pgpool-II.
    """
    old = paths.OLD_KEY_OF_PGPOOL
    if not os.path.lexists(old):
        return
    with contextlib.suppress(ServerError):
        found = hands.read(old)
        if found and not paths.KEY_OF_PGPOOL.exists() and re.fullmatch(rb"[0-9a-f]{16}\n", found.content):
            mark(found.content.decode("ascii").strip())
        hands.remove(old)


def mark(key: str) -> None:
    """Record the fingerprint of the key that pgpool-II starts with, "" to clear it; an error is only reported."""
    marker = paths.KEY_OF_PGPOOL
    try:
        hands.make_folder(marker.parent, 0o755)
        if key:
            hands.write(marker, f"{key}\n".encode(), 0o644)
        else:
            hands.remove(marker, 0)
    except ServerError as error:
        log.refusals([error])
