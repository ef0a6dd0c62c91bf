"""Compare the rendered files with the disk; changes nothing.

If an administrator has edited one of the cluster's own files, the rendered file is to lie beside it as `.new`. A file
that cannot be written, or whose place is taken by something other than a plain file, is refused; the others are not.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..definition.key import Role
from ..ground import plain
from ..ground.errors import ServerError
from ..machine.memory import Applied
from . import laid_files, node_files
from .rendering import rendered_file
from .rendering.rendered_file import File, FileShare
from .users import Users

_SECRET_LINE = re.compile(r"^(wd_authkey = ).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Change:
    """A file that differs from its rendered version; str() gives one line about it.

    `edited`: an administrator has edited it, so the rendered version goes beside it.
    `strange`: its content may be an administrator's, so it is kept beside the new file as `.old`.
    """

    file: File
    before: bytes | None
    after: bytes
    edited: bool = False
    strange: bool = False

    @property
    def path(self) -> Path:
        """The path of the file."""
        return Path(self.file.path)

    @property
    def target(self) -> Path:
        """The path that `after` is written to."""
        return self.path.with_name(f"{self.path.name}.new") if self.edited else self.path

    def __str__(self) -> str:
        if self.edited:
            return f"{self.path}: edited by hand, so it is kept; the rendered file is {self.target}"
        kept = f"; the previous file is {self.old}" if self.strange else ""
        return f"{self.path}: {'new' if self.before is None else 'changed'}{kept}"

    @property
    def old(self) -> Path:
        """The path that keeps the previous content of a `strange` file."""
        return self.path.with_name(f"{self.path.name}.old")

    @property
    def diff(self) -> str:
        """A unified diff; for a file that holds secrets, only one line saying that it differs."""
        if self.file.mode & 0o077 == 0 or self.path.name in ("pcp.conf", "roles.sql"):
            return f"{self}: it holds secrets, so no diff is shown\n"
        texts = ((text or b"").decode(errors="replace") for text in (self.before, self.after))
        old, new = (_SECRET_LINE.sub(r"\1…", text) for text in texts)
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(self.path), str(self.target))
        return plain.shown("".join(lines)) or f"{self}: only the owner, the mode or a secret differs\n"


@dataclass(frozen=True, slots=True)
class PlannedChanges:
    """The intended state of this node and the changes that lead there.

    `files`, `users`: the complete intended state. `changes`: the files that differ from it.
    `edited`: files that an administrator has edited, even if the rendered version already lies beside them.
    `odd`: files that cannot be written, for the reasons in `refused`; they do not stop the others.
    """

    files: tuple[File, ...]
    users: Users
    changes: tuple[Change, ...]
    edited: tuple[Path, ...] = ()
    odd: tuple[Path, ...] = ()
    refused: tuple[ServerError, ...] = ()


def plan() -> PlannedChanges:
    """Compare the rendered files with the disk and return the changes; changes nothing. Raises ClusterError."""
    if os.geteuid() != 0:
        raise ServerError("pgpoolctl apply writes below /etc", hint="run it as root")
    applied = Applied.load()
    claimed = Applied() if applied.files else laid_files.claimed()
    rendered, users = node_files.render()
    # The rendered file adds back the roles that this node may know.
    gone = {*applied.users, *claimed.users, *Role} - set(users.entries)
    changes: list[Change] = []
    edited: list[Path] = []
    refused: dict[Path, ServerError] = {}
    for file in rendered:
        try:
            change = _change(file, applied, claimed, gone)
            if change is not None and change.edited:
                edited.append(change.path)
            if change is not None and (not change.edited or laid_files.content(change.target, file) != change.after):
                changes.append(change)
        except ServerError as error:
            refused[Path(file.path)] = error
    return PlannedChanges(rendered, users, tuple(changes), tuple(edited), tuple(refused), tuple(refused.values()))


def _change(file: File, applied: Applied, claimed: Applied, gone: set[str]) -> Change | None:
    path = Path(file.path)
    known = applied.files.get(str(path))
    there = laid_files.there(file, replaceable=known is None)
    before = there.content if there else None
    text = (before or b"").decode(errors="surrogateescape")
    if file.share is FileShare.ENTRIES:
        text = rendered_file.without_entries(text, gone)
    after = rendered_file.merged(text, file).encode(errors="surrogateescape")
    if there and before == after and (there.uid, there.gid, there.mode) == laid_files.owner_of(file):
        return None
    differs = file.share is FileShare.WHOLE and before not in (None, after)
    # Only postgres vouches for a claimed hash. It can make us keep a file, or replace one while keeping `.old`.
    remembered = claimed.files.get(str(path)) if known is None else known
    edited = differs and remembered not in (None, laid_files.hash_of(before or b""))
    return Change(file, before, after, edited, strange=differs and not edited and known is None)
