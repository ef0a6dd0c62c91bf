"""The rows of a bench: measured comparisons of medians, all from one run. A missed goal is not a failure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pgpool_deb.ground import atomic


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One row of a bench; `ours` and `theirs` are in `unit`, and `goal` bounds `ratio`, or `ours` without a ratio."""

    case: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    goal: float
    better: str = "lower"

    @classmethod
    def compared(  # noqa: PLR0913 - the columns of a row
        cls, case: str, ours: float, theirs: float, *, unit: str, goal: float, better: str = "lower"
    ) -> BenchRow:
        """Return a row whose goal bounds the ratio of ours to theirs."""
        return cls(case, round(ours, 3), round(theirs, 3), unit, round(ours / theirs, 4), goal, better)

    @classmethod
    def absolute(cls, case: str, ours: float, *, unit: str, goal: float) -> BenchRow:
        """Return a row whose goal bounds our figure itself."""
        return cls(case, round(ours, 3), None, unit, None, goal)

    @property
    def reached(self) -> bool:
        """Whether the row meets its goal."""
        figure = self.ours if self.ratio is None else self.ratio
        return figure <= self.goal if self.better == "lower" else figure >= self.goal


def publish(rows: Sequence[BenchRow], path: Path) -> None:
    """Write the rows to `path` as JSON and print them as a Markdown table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print(table(rows))


def table(rows: Sequence[BenchRow]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| case | ours | theirs | unit | ratio | goal | reached |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        theirs = "–" if row.theirs is None else f"{row.theirs:g}"
        ratio = "–" if row.ratio is None else f"{row.ratio:g}"
        reached = "yes" if row.reached else "no"
        figures = f"{row.ours:g} | {theirs} | {row.unit} | {ratio} | {sign(row)} {row.goal:g}"
        lines.append(f"| {row.case} | {figures} | {reached} |")
    return "\n".join(lines)


def sign(row: BenchRow) -> str:
    """Return the sign for the side of its goal on which a row should be."""
    return "≤" if row.better == "lower" else "≥"
