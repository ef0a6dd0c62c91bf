"""What `apply` remembers of what it laid down: root's own word on what is the cluster's on this server."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from . import hands, paths
from .errors import ServerError

_HASH = re.compile(r"[0-9a-f]{64}|")
_PATH = re.compile(r"(?:/(?!\.\.?(?:/|$))[!-.0-~ ]+)+")
"""An absolute path of printable ASCII, without steps back."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was laid down last: path to SHA-256, the users in pool_passwd, and the hash of cluster.yml."""

    files: dict[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    cluster: str = ""

    @classmethod
    def load(cls) -> Applied:
        """Read the memory; one that is not there or damaged is empty."""
        return cls._read(paths.MEMORY, os.getuid())

    @classmethod
    def claimed(cls) -> Applied:
        """Read what a version before wrote into a folder of postgres': postgres may say there what it likes."""
        return cls._read(paths.OLD_MEMORY, None)

    @classmethod
    def _read(cls, path: Path, owner: int | None) -> Applied:
        try:
            found = hands.read(path, owner)
            if found is None:
                return cls()
            values = json.loads(found.text)
            said = dict(values["files"]).items()
            known = {name: its for name, its in said if _PATH.fullmatch(name) and _HASH.fullmatch(its)}
            return cls(known, tuple(map(str, values["users"])), str(values["cluster"]))
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
        """The PostgreSQL servers that configuration was laid down for, as systemd calls them: one, or none."""
        return frozenset(filter(None, map(unit_of, self.files)))


def unit_of(path: str) -> str:
    """Return the unit of the server that a file below /etc/postgresql belongs to; "" for another file."""
    match = re.fullmatch(r"/etc/postgresql/(\d+)/([^/]+)/.*", path)
    return f"postgresql@{match[1]}-{match[2]}.service" if match else ""
