"""The users that can log in through pgpool-II; the list is the same on every node.

Each change increases a serial number. A node that was away fetches the list from a node with a later change.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..ground import files, plain
from ..ground.errors import ServerError
from ..machine import hands

_LOCK_SECONDS = 10.0
_ENTRY = re.compile(r"[ -9;-~]{1,4096}")
"""A value in pool_passwd: printable characters on one line, without a colon."""


@dataclass(frozen=True, slots=True)
class Users:
    """Users and their pool_passwd values after change `serial`, encrypted with the pool key that has this `mark`."""

    serial: int = 0
    entries: Mapping[str, str] = field(default_factory=dict, repr=False)
    mark: str = ""

    @classmethod
    def load(cls, path: Path) -> Users:
        """Read the list; a missing or unreadable list counts as empty and older than any other."""
        try:
            found = hands.read(path)
            return cls.of(json.loads(found.text)) if found else cls()
        except (ServerError, ValueError, KeyError, TypeError, RecursionError):
            return cls()

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Users:
        """Return the list from the output of `json`; raises KeyError, TypeError or ValueError for anything else."""
        entries = values["entries"]
        if not isinstance(entries, dict):
            raise TypeError("entries")
        listed = {str(name): str(entry) for name, entry in entries.items()}
        if not all(plain.is_role(name) and _ENTRY.fullmatch(entry) for name, entry in listed.items()):
            raise ValueError("entries")
        return cls(int(str(values["serial"])), listed, str(values["mark"]))

    @property
    def json(self) -> dict[str, object]:
        """The list in the format that `of` reads."""
        return {"serial": self.serial, "entries": dict(self.entries), "mark": self.mark}

    def save(self, path: Path, owner: tuple[int, int] | None = None) -> None:
        """Write the list; raises ServerError."""
        content = json.dumps(self.json, indent=1).encode() + b"\n"
        if owner is None:
            files.write(path, content, 0o600)
        else:
            hands.write(path, content, 0o600, owner)

    def with_entry(self, name: str, entry: str | None) -> Users:
        """Return the list after one more change: `name` has this entry or, for None, is removed."""
        entries = {known: value for known, value in self.entries.items() if known != name}
        if entry is not None:
            entries[name] = entry
        return Users(self.serial + 1, entries, self.mark)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Lock the list, which both the agent and `apply` write; raises ServerError if the lock is held for 10 s.

    The lock is on the folder, because root creates no file in a folder of postgres.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        why = f"another program is changing {path}"
        files.lock(folder, path.parent, why, seconds=_LOCK_SECONDS)
        yield
    finally:
        os.close(folder)
