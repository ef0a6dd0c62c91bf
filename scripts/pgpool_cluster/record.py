"""A node's memory of itself, kept outside of its data directory, which a clone replaces."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from . import files, hands
from .errors import ServerError
from .excuse import NO_EXCUSE, Excuse


@dataclass(frozen=True, slots=True)
class Record:
    """A node's memory.

    `system`: the system identifier it was founded or cloned with, None for no member. `term`: the latest promotion it
    was told of. `led`: the term it was made the primary in. `copying`: where a clone or rewind that has not ended
    copies from, "" if none. `standbys_came`: as many standbys as `synchronous` asks for have been there once.
    `held`: an administrator keeps clients off it, until it is attached or recovered. `upgrading`: the PostgreSQL that
    pg_upgradecluster is about to put in place of the present one, "" if none. `restart`: where every node is a primary,
    the first term whose nodes come back without being asked (facts.py); `apart`: clients may have written here alone.
    `dropped`: the standbys that this node's commits do not wait for. `excuse`: the latest one that was taken note of.
    `certified`: fingerprint of the latest cluster key that most nodes had. `proven`: what every server's certificate
    was checked with once, a cluster key's fingerprint or the path of cluster.yml's `ca` (proof.py); "" for nothing.
    `needs`: the values of matching.py's parameters with which its primary was found, where they were too low here;
    `libraries`: what it was found to preload that is installed here; `logical`: its wal_level was logical.
    `own_database`: every database node has shown that it has the roles' own database (own_database.py).
    """

    system: int | None = None
    term: int = 0
    led: int = 0
    copying: str = ""
    standbys_came: bool = False
    held: bool = False
    upgrading: str = ""
    restart: int = 0
    apart: bool = False
    dropped: tuple[str, ...] = ()
    excuse: Excuse = NO_EXCUSE
    certified: str = ""
    proven: str = ""
    needs: tuple[tuple[str, int], ...] = ()
    libraries: tuple[str, ...] = ()
    logical: bool = False
    own_database: bool = False

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read the record; a node without one is new. Raises ServerError if it cannot be read."""
        try:
            found = hands.read(path)
            if found is None:
                return cls()
            values = json.loads(found.text)
            known = {name.name: values[name.name] for name in dataclasses.fields(cls) if name.name in values}
            for name in dataclasses.fields(cls):
                _check(name.name, known.get(name.name, name.default), name.default)
            return cls(**known).with_changes(**_of_json(known))
        except ServerError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            hint = "if it is damaged, remove it: the node then counts as new, and refuses to replace data"
            raise ServerError(f"{path} cannot be read: {error}", hint=hint) from error

    def with_changes(self, **changes: object) -> Record:
        """Return the record with other values."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write the record; raises ServerError."""
        files.write(path, json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n", 0o600)


def _check(name: str, value: object, default: object) -> None:
    """Raise ValueError for a value of another type than its default's: root reads the record, too."""
    several = dict.fromkeys(("dropped", "needs", "libraries"), (list, tuple))
    types = {"system": (int, NoneType), "excuse": (dict, Excuse), **several}
    if type(value) not in types.get(name, (type(default),)):
        raise ValueError(f"{name} is of another type")


def _of_json(values: dict[str, Any]) -> dict[str, object]:
    """Return those of the values that JSON has in another shape; raises ValueError or TypeError."""
    found: dict[str, object] = {name: tuple(map(str, values.get(name, ()))) for name in ("dropped", "libraries")}
    found["needs"] = tuple((str(name), int(value)) for name, value in values.get("needs", ()))
    if "excuse" in values:
        found["excuse"] = Excuse(**{**values["excuse"], "names": tuple(map(str, values["excuse"]["names"]))})
    return found
