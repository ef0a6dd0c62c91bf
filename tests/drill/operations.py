"""Operations of clients: one transaction each, one JSON line of a history each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
"""Outcomes: acknowledged; certainly without effect; without an answer, so it may or may not have committed."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One transaction. Times are seconds since the epoch by the clock that all hosts of a lab share."""

    client: str
    session: int
    """The number of the client's connection. An operation without a connection has the number of the attempt."""
    began: float
    ended: float
    outcome: str = OK
    appends: Mapping[str, int] = field(default_factory=dict)
    """The value appended to each list."""
    reads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The values seen in each list, in order."""
    node: str = ""
    """The address of the PostgreSQL that answered a read."""
    standby: bool = False
    sqlstate: str = ""
    error: str = ""

    @property
    def acknowledged(self) -> bool:
        return self.outcome == OK

    def __str__(self) -> str:
        did = [f"append {value} to {name}" for name, value in self.appends.items()]
        did += [f"read {name} as {_short(values)}" for name, values in self.reads.items()]
        where = f" at {'standby' if self.standby else 'primary'} {self.node}" if self.node else ""
        error = f" ({self.sqlstate or 'no SQLSTATE'}: {self.error})" if self.error else ""
        span = f"{self.began:.3f} to {self.ended:.3f}"
        return f"{span}, {self.client}: {'; '.join(did) or 'nothing'}{where}: {self.outcome}{error}"


def _short(values: Sequence[int]) -> str:
    """Return a list's end; the beginning of a long list says little."""
    return f"[{'… ' if len(values) > 5 else ''}{' '.join(map(str, values[-5:]))}]"


def parse(lines: Iterable[str]) -> tuple[Operation, ...]:
    """Read the lines of clients, ordered by the beginning of each operation.

    A client that was killed leaves half a line at its end, which is ignored. Raises TypeError for unknown keys.
    """
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        row["reads"] = {name: tuple(values) for name, values in row.get("reads", {}).items()}
        found.append(Operation(**row))
    return tuple(sorted(found, key=lambda operation: operation.began))


def line(operation: Operation) -> str:
    """Return an operation as a line of a history."""
    return json.dumps(asdict(operation), separators=(",", ":"))
