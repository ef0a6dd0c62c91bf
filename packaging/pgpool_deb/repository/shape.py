"""Check the layout of a repository's folder before writing to it: its links must exist and must not lead out of it."""

from __future__ import annotations

import re
from pathlib import Path

from pgpool_deb.ground.errors import UsageError

from . import inside

POINTER = "current"
BEHIND_POINTER = ("dists", "index.html", "keyring")
"""Names in the repository's folder that are symbolic links through `current`."""
STATES = "snapshot"
_STATE = re.compile(r"\d{8}T\d{6}Z")
_COPIED = "copy the repository again with cp -a or rsync -a, which keep symbolic links"


def states(path: Path) -> tuple[Path, ...]:
    """Return the folders of all states, oldest first; ignores folders with other names."""
    found = (one for one in (path / STATES).iterdir() if _STATE.fullmatch(one.name))
    return tuple(sorted(one for one in found if one.is_dir()))


def refuse_other(path: Path) -> None:
    """Raise UsageError if a repository's folder has links that lead elsewhere, or other files in place of its links.

    Raises MachineError if the folder cannot be read.
    """
    try:
        _refuse_other(path)
    except OSError as error:
        raise inside.unreadable(Path(error.filename or path), error) from error


def _refuse_other(path: Path) -> None:
    for name in ("pool", STATES):
        place = path / name
        if place.is_symlink():
            raise UsageError(f"{place} is a symbolic link", hint="replace the link with the folder that it points to")
        if place.exists() and not place.is_dir():
            raise UsageError(f"{place} is not a folder", hint="check the path; ./invoke publish creates a repository")
    for name in BEHIND_POINTER:
        place = path / name
        if place.is_symlink():
            if place.readlink() != Path(POINTER, name):
                raise UsageError(f"{place} points to another path", hint=f"ln -sfn {POINTER}/{name} {place}")
        elif place.exists():
            raise UsageError(f"{place} is not a symbolic link to {POINTER}/{name}", hint=_COPIED)
    if (path / STATES).is_dir():
        _refuse_pointer(path)


def _refuse_pointer(path: Path) -> None:
    pointer, kept = path / POINTER, states(path)
    if links := [state for state in kept if state.is_symlink()]:
        raise UsageError(f"{links[0]} is a symbolic link", hint="remove the link: states are folders")
    if pointer.is_symlink():
        parts = pointer.readlink().parts
        if parts[:1] != (STATES,) or len(parts) != 2 or not _STATE.fullmatch(parts[1]):
            raise UsageError(f"{pointer} points outside the repository", hint=f"ln -sfn {STATES}/TIME {pointer}")
    elif pointer.exists():
        raise UsageError(f"{pointer} is not a symbolic link to a state", hint=_COPIED)
    if kept and not pointer.exists():
        hint = f"point it to the newest state: ln -sfn {STATES}/{kept[-1].name} {pointer}"
        raise UsageError(f"{pointer} is missing or points to no state", hint=hint)
