"""Figures of `bench failover` from the clients' operations, and the rows of its table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pgpool_deb.automation.bench import BenchRow

from .operations import Operation


def quantile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank quantile: the least value with at least this share of the values up to it.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("there is no quantile of no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def longest_gap(operations: Iterable[Operation], since: float, until: float) -> float:
    """Return the longest time without an acknowledgement that overlaps the span, in seconds.

    A gap begins with the last acknowledgement before `since`, if there is one, and the last gap ends at `until`.
    """
    times = sorted(operation.ended for operation in operations if operation.acknowledged and operation.ended <= until)
    first = max((time for time in times if time <= since), default=since)
    marks = [first, *(time for time in times if time > since), until]
    return max(later - earlier for earlier, later in pairwise(marks))


def last_acknowledged(operations: Iterable[Operation], since: float) -> float:
    """Return how long after `since` the last operation was acknowledged; 0 if none was."""
    return max((one.ended - since for one in operations if one.acknowledged and one.ended > since), default=0.0)


def first_error(operations: Iterable[Operation], since: float) -> float:
    """Return how long after `since` a client's session that was open then got its first error; 0 without an error."""
    found = sorted(operations, key=lambda one: one.began)
    session = next((one.session for one in reversed(found) if one.began <= since), None)
    errors = (one.ended - since for one in found if one.session == session and one.error and one.ended > since)
    return min(errors, default=0.0)


def errors_in(operations: Iterable[Operation], since: float, until: float) -> int:
    """Return how many operations ended in an error within a span."""
    return sum(1 for one in operations if one.error and since <= one.ended <= until)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that each run of a case has, and its goals."""

    name: str
    title: str
    median: float
    worst: float
    unit: str = "s"


FIGURES = (
    Figure("postgresql-killed", "PostgreSQL of the primary killed and kept down, virtual address", 1, 3),
    Figure("postgresql-killed hosts", "PostgreSQL of the primary killed and kept down, list of hosts", 1, 3),
    Figure("primary-killed", "the primary's host killed, virtual address", 3, 6),
    Figure("primary-killed hosts", "the primary's host killed, list of hosts", 3, 6),
    Figure("primary-silent", "the primary's host silent, virtual address", 3, 6),
    Figure("primary-silent hosts", "the primary's host silent, list of hosts", 3, 6),
    Figure("standby-killed", "a standby's host killed, for its clients", 1.5, 3),
    Figure("standby-killed others", "a standby's host killed, for other clients", 0.2, 0.2),
    Figure("standby-killed errors", "a standby's host killed, errors of other clients", 0, 0, "errors"),
    Figure("standby-silent", "a standby's host silent, for its clients", 1.5, 3),
    Figure("standby-silent others", "a standby's host silent, for other clients", 0.2, 0.2),
    Figure("standby-silent errors", "a standby's host silent, errors of other clients", 0, 0, "errors"),
    Figure("cut-off writes", "a primary that is cut off, its last acknowledged write", 3, 5),
    Figure("cut-off reads", "a primary that is cut off, its last read", 3, 5),
    Figure("switchover", "switchover, virtual address", 0.5, 1),
    Figure("switchover hosts", "switchover, list of hosts", 0.5, 1),
    Figure("switchover errors", "switchover, errors of pgbench -C and short sessions", 0, 0, "errors"),
    Figure("switchover kept", "switchover, errors in a kept session", 1, 1, "errors"),
    Figure("restart", "planned restart, virtual address", 0.5, 1),
    Figure("restart hosts", "planned restart, list of hosts", 0.5, 1),
    Figure("restart errors", "planned restart, errors of pgbench -C and short sessions", 0, 0, "errors"),
    Figure("restart kept", "planned restart, errors in a kept session", 1, 1, "errors"),
    Figure("return", "the former primary streams again, from its host's boot", 6, 12),
    Figure("in flight", "a session in flight gets its error", 3, 6),
    Figure("idle", "agent and pgpool-II of an idle node", 1, 1, "% of a core"),
)
"""`others` tolerates 0.2 s: on two cores, clients of a healthy cluster have gaps of that length."""


def rows(release: str, samples: Mapping[str, Sequence[float]]) -> list[BenchRow]:
    """Return the median and the worst value of each figure that has samples, in the order of FIGURES."""
    made = []
    for figure in FIGURES:
        values = samples.get(figure.name, ())
        if values:
            case = f"{release}: {figure.title}"
            worst = BenchRow.absolute(
                f"{case}, worst of {len(values)}", max(values), unit=figure.unit, goal=figure.worst
            )
            p50 = BenchRow.absolute(f"{case}, p50", quantile(values, 0.5), unit=figure.unit, goal=figure.median)
            made += [p50, worst]
    return made


def quantiles(samples: Mapping[str, Sequence[float]]) -> str:
    """Return a Markdown table with the quantiles of each figure."""
    shares = (0.1, 0.5, 0.9, 1.0)
    lines = ["| figure | runs | p10 | p50 | p90 | worst |", "|---|---|---|---|---|---|"]
    for name, values in samples.items():
        cells = " | ".join(f"{quantile(values, share):.3g}" for share in shares)
        lines.append(f"| {name} | {len(values)} | {cells} |")
    return "\n".join(lines)
