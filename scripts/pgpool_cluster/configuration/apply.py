"""`pgpoolctl apply`: write what differs from the rendered files (changes.py), and reload the services (reloading.py).

If an administrator has edited one of the cluster's own files, `apply` keeps it and writes the rendered file beside it
as `.new`. It records a hash of every file it writes (paths.MEMORY), where only root can write.

A process that runs as postgres reads and writes the files in folders of postgres (hands.py). A file that cannot be
written, or whose place is taken by something other than a plain file, is refused and reported; the others are written.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..ground import ancestors, files, paths
from ..ground.errors import ServerError
from ..machine import hands, roots_lock, server, units
from ..machine.memory import Applied
from . import changes, laid_files, pool_key, reloading
from .rendering import rendered_paths
from .rendering.rendered_file import FileShare
from .rendering.rendered_paths import FOLDER
from .users import Users, changing

_LOCK = paths.ROOTS_RUN / "apply.lock"
_LOCK_SECONDS = 30.0
"""How long to wait for another `apply`; shorter than the start timeout of the agent's unit."""


def carry_out(planned: changes.PlannedChanges) -> tuple[ServerError, ...]:
    """Write the files, reload the services, and return the errors of files that could not be written.

    Raises ClusterError if nothing could be done. No service is stopped; a changed unit file restarts pgpool-II.
    """
    with _locked():
        _make_folders()
        planned = _with_users_of_now(planned)
        applied = Applied.load()
        laid, refused = _lay(planned)
        cluster = paths.file_hash()
        now = Applied(_remembered(planned, laid, applied), tuple(sorted(planned.users.entries)), cluster)
        if now != applied:
            with contextlib.suppress(ServerError) if refused else contextlib.nullcontext():
                now.save()
        if not refused and paths.laid_file() != cluster:
            hands.write(paths.LAID_FILE, f"{cluster}\n".encode(), 0o644)
    reloading.reload([str(change.path) for change in laid if not change.edited], renewed=cluster != applied.cluster)
    return refused


def _lay(planned: changes.PlannedChanges) -> tuple[list[changes.Change], tuple[ServerError, ...]]:
    """Write the changes; return those that were written, and the errors of the others.

    An error in a folder of root, such as a full disk, concerns the whole machine, so the first one ends the loop.
    """
    laid, refused = [], list(planned.refused)
    for change in planned.changes:
        try:
            _write(change)
        except ServerError as error:
            refused.append(error)
            if not ancestors.intruder(change.target):
                break
        else:
            laid.append(change)
    for file in planned.files:
        beside = Path(f"{file.path}.new")
        if file.share is FileShare.WHOLE and Path(file.path) not in planned.edited and os.path.lexists(beside):
            with contextlib.suppress(ServerError):
                hands.remove(beside, laid_files.owner_of(file)[0])
    needed = {str(file.path) for file in planned.files}
    for name in rendered_paths.DROP_INS:
        if name in Applied.load().files and name not in needed:
            hands.remove(Path(name), 0)
            units.ask("daemon-reload")
    return laid, tuple(refused)


def _write(change: changes.Change) -> None:
    uid, gid, mode = laid_files.owner_of(change.file)
    parent = change.target.parent
    if files.kind(parent) != stat.S_IFDIR:
        hands.make_folder(parent, 0o700 if parent.name == ".ssh" else 0o755, (uid, gid))
    if change.strange and change.before is not None:
        hands.write(change.old, change.before, mode, (uid, gid))
    hands.write(change.target, change.after, mode, (uid, gid))


def _with_users_of_now(planned: changes.PlannedChanges) -> changes.PlannedChanges:
    """Save the plan's users, encrypted for this key; if the user list has changed since, make a new plan first.

    The agent may store another list at any time, and requests an `apply` afterwards.
    """
    with changing(paths.USERS):
        known = Users.load(paths.USERS)
        if known.serial != planned.users.serial:
            planned = changes.plan()
        if planned.users != known:
            entry = pwd.getpwnam("postgres")
            planned.users.save(paths.USERS, (entry.pw_uid, entry.pw_gid))
    return planned


def _remembered(planned: changes.PlannedChanges, laid: Sequence[changes.Change], applied: Applied) -> dict[str, str]:
    """Return the hashes of all files written; an edited or refused file keeps its earlier hash."""
    left = {str(change.path) for change in planned.changes} - {str(change.path) for change in laid}
    left |= {str(path) for path in (*planned.edited, *planned.odd)}
    hashes = {str(file.path): laid_files.hash_of(file.content) for file in planned.files}
    return {path: applied.files.get(path, now) if path in left else now for path, now in hashes.items()}


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock that only root can open; raises ServerError if another `apply` holds it for _LOCK_SECONDS."""
    why = f"another pgpoolctl apply has been running for {_LOCK_SECONDS:g} s"
    with roots_lock.locked(_LOCK, why, _LOCK_SECONDS):
        yield


def _make_folders() -> None:
    cluster, me = server.this_node()
    entry = pwd.getpwnam("postgres")
    for folder, mode, owner in (
        (Path(FOLDER), 0o755, (0, 0)),
        (paths.STATE, 0o700, (entry.pw_uid, entry.pw_gid)),
    ):
        hands.make_folder(folder, mode, owner)
    pool_key.take_over_marker()
    if cluster.archives(me):
        _make_archive(entry.pw_uid, entry.pw_gid)


def _make_archive(uid: int, gid: int) -> None:
    """Create the archive folder for postgres alone, or make it so if an administrator has mounted a disk there."""
    hands.make_folder(paths.ARCHIVE, 0o700, (uid, gid), again=True)
