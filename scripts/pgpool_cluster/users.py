"""The users of the cluster's databases: who can log in through pgpool-II, the same on every node.

A change has a number; a node that was away takes the list of one that knows a later change, if it can read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import files, hands, plain
from .errors import ServerError

_LOCK_SECONDS = 10.0
_ENTRY = re.compile(r"[ -9;-~]{1,4096}")
"""A value of pool_passwd: printable, on one line, without the colon."""


@dataclass(frozen=True, slots=True)
class Users:
    """Names with their pool_passwd values, as of change number `serial`, encrypted with the pool key of this mark."""

    serial: int = 0
    entries: Mapping[str, str] = field(default_factory=dict, repr=False)
    mark: str = ""

    @classmethod
    def load(cls, path: Path) -> Users:
        """Read the list; one that is not there, or cannot be read, is empty and older than any other."""
        try:
            found = hands.read(path)
            return cls.of(json.loads(found.text)) if found else cls()
        except (ServerError, ValueError, KeyError, TypeError, RecursionError):
            return cls()

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Users:
        """Return the list that `json` gave; raises KeyError, TypeError or ValueError for anything else."""
        entries = values["entries"]
        if not isinstance(entries, dict):
            raise TypeError("entries")
        listed = {str(name): str(entry) for name, entry in entries.items()}
        if not all(plain.is_role(name) and _ENTRY.fullmatch(entry) for name, entry in listed.items()):
            raise ValueError("entries")
        return cls(int(str(values["serial"])), listed, str(values["mark"]))

    @property
    def json(self) -> dict[str, object]:
        """What `of` takes."""
        return {"serial": self.serial, "entries": dict(self.entries), "mark": self.mark}

    def save(self, path: Path, owner: tuple[int, int] | None = None) -> None:
        """Write the list; raises ServerError."""
        content = json.dumps(self.json, indent=1).encode() + b"\n"
        if owner is None:
            files.write(path, content, 0o600)
        else:
            hands.write(path, content, 0o600, owner)

    def with_entry(self, name: str, entry: str | None) -> Users:
        """Return the list after one more change: `name` with another value, or without one."""
        entries = {known: value for known, value in self.entries.items() if known != name}
        if entry is not None:
            entries[name] = entry
        return Users(self.serial + 1, entries, self.mark)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other programs from changing the list meanwhile; raises ServerError if one of them does so for 10 s.

    The agent and `apply` both write it. The lock is on the folder: root makes no file in one that is postgres'.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        why = f"{path} is being changed by another program"
        files.lock(folder, path.parent, why, seconds=_LOCK_SECONDS)
        yield
    finally:
        os.close(folder)
