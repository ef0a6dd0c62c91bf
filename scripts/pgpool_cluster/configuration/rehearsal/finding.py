"""Define a finding of a rehearsal: one effect of the installation on a server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The effect of the installation on a part of the server."""

    KEPT = "kept"
    CHANGED = "changed"
    RESTART = "restart"
    MISSING = "missing"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a rehearsal, given by str(); `fix`: what to write or type."""

    kind: Kind
    area: str
    what: str
    fix: str = ""

    @property
    def lost(self) -> bool:
        """Whether it makes a rehearsal fail."""
        return self.kind in (Kind.MISSING, Kind.REFUSED)

    @property
    def json(self) -> dict[str, str]:
        """The format in docs/reference/pgpoolctl.md."""
        values = {"kind": str(self.kind), "area": self.area, "what": self.what}
        return {**values, "fix": self.fix} if self.fix else values

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.area}: {self.what}" + (f"; fix: {self.fix}" if self.fix else "")


def written(name: str, value: str, file: str) -> str:
    """Return the line of cluster.yml that sets a parameter."""
    shown = json.dumps(value) if any(sign in value for sign in ",:#{}[]'\" ") else value
    return f"postgresql_conf: {{{name}: {shown}}} in {file}"
