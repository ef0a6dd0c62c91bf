"""Store a node's record outside its data directory, because a clone replaces that directory."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from ..decision.facts.excuse import NO_EXCUSE, Excuse
from ..decision.facts.facts import Origin
from ..decision.facts.pause import NO_PAUSE, Pause
from ..ground import files
from ..ground.errors import ServerError
from ..transport import wire
from . import hands


@dataclass(frozen=True, slots=True)
class Record:
    """A node's record.

    `system`: the system identifier with which it was founded or cloned; None if it is not yet a member. `term`: the
    latest promotion that it knows. `led`: the term in which it became the primary. `copying`: the source of a clone or
    rewind that has not ended, "" if none. `standbys_came`: as many standbys as `synchronous` requires have connected
    once. `held`: an administrator keeps clients off it, until it is attached or recovered. `upgrading`: the server that
    pg_upgradecluster is about to put in place of the present one, "" if none. `restart`: as in NodeFacts (facts.py).
    `apart`: clients may have written to this node alone. `dropped`: the standbys that this node's commits do not wait
    for. `excuse`: the latest recorded excuse. `certified`: fingerprint of the latest cluster key that most nodes had.
    `proven`: the authority with which every server's certificate was checked once, either a cluster key's fingerprint
    or the path of cluster.yml's `ca` (proof.py); "" if none. `needs`: the primary's values of matching.py's parameters
    that were too low on this node. `libraries`: libraries that the primary preloads and that are installed on this
    node. `logical`: the primary's wal_level was logical. `own_database`: every database node has shown that it has the
    roles' own database (own_database.py). `loss`, `origins`: as in NodeFacts. `pause`: the latest pause of the
    cluster, or its end.
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
    loss: int = 0
    pause: Pause = NO_PAUSE
    origins: tuple[Origin, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read the record; a node without one is new. Raises ServerError if the record cannot be read."""
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
        """Return a copy of the record with these changes."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write the record; raises ServerError."""
        files.write(path, json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n", 0o600)


def _check(name: str, value: object, default: object) -> None:
    """Raise ValueError if a value has another type than its default. The check matters because root reads it, too."""
    several = dict.fromkeys(("dropped", "needs", "libraries", "origins"), (list, tuple))
    types = {"system": (int, NoneType), "excuse": (dict, Excuse), "pause": (dict, Pause), **several}
    if type(value) not in types.get(name, (type(default),)):
        raise ValueError(f"{name} is of another type")


def _of_json(values: dict[str, Any]) -> dict[str, object]:
    """Return the values that JSON stores as another type, converted back; raises ValueError or TypeError."""
    found: dict[str, object] = {name: tuple(map(str, values.get(name, ()))) for name in ("dropped", "libraries")}
    found["needs"] = tuple((str(name), int(value)) for name, value in values.get("needs", ()))
    found["origins"] = tuple(wire.read(Origin, one, "origins") for one in values.get("origins", ()))
    if "excuse" in values:
        found["excuse"] = Excuse(**{**values["excuse"], "names": tuple(map(str, values["excuse"]["names"]))})
    if "pause" in values:
        found["pause"] = wire.read(Pause, values["pause"], "pause")
    return found
