"""The memory of `apply`: the files it has written. Only root can change it, so root can rely on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..ground import paths
from ..ground.errors import ServerError
from . import hands

_HASH = re.compile(r"[0-9a-f]{64}|")
_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))[!-.0-~ ]+)+")
"""An absolute path of printable ASCII, without `.` or `..`."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The files that `apply` wrote last, as SHA-256 by path, the users in pool_passwd, and the hash of cluster.yml."""

    files: dict[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    cluster: str = ""

    @classmethod
    def load(cls) -> Applied:
        """Read the memory; it is empty if the file is missing or damaged."""
        return cls._read(paths.MEMORY, os.getuid())

    @classmethod
    def claimed(cls) -> Applied:
        """Read the memory of an older package in a folder of postgres, where postgres may have changed it."""
        return cls._read(paths.OLD_MEMORY, None)

    @classmethod
    def _read(cls, path: Path, owner: int | None) -> Applied:
        try:
            found = hands.read(path, owner)
            if found is None:
                return cls()
            values = json.loads(found.text)
            hashes = dict(values["files"]).items()
            valid = {name: digest for name, digest in hashes if _PATH.fullmatch(name) and _HASH.fullmatch(digest)}
            return cls(valid, tuple(map(str, values["users"])), str(values["cluster"]))
        except (ServerError, ValueError, KeyError, TypeError, RecursionError):
            return cls()

    def save(self) -> None:
        """Write the memory; raises ServerError."""
        values = {"files": self.files, "users": list(self.users), "cluster": self.cluster}
        hands.write(paths.MEMORY, json.dumps(values, indent=1, sort_keys=True).encode() + b"\n", 0o600)
        with contextlib.suppress(ServerError):
            hands.remove(paths.OLD_MEMORY)

    @property
    def units(self) -> frozenset[str]:
        """The systemd units of the PostgreSQL servers with files from `apply`: one, or none."""
        return frozenset(filter(None, map(unit_of, self.files)))


def unit_of(path: str) -> str:
    """Return the systemd unit of the server to which a file below /etc/postgresql belongs; "" for another file."""
    match = re.fullmatch(rf"{re.escape(str(paths.POSTGRESQL_CONFIGURATION))}/(\d+)/([^/]+)/.*", path)
    return f"postgresql@{match[1]}-{match[2]}.service" if match else ""
