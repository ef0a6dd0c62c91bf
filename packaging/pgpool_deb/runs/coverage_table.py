"""The coverage of the unit level as a table: each package, and each of its files. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

_PACKAGES = ("scripts/pgpool_cluster", "packaging/pgpool_deb")


@dataclass(frozen=True, slots=True)
class Measured:
    """How much of some code the tests ran: its branches (ways out of a decision), and its statements."""

    branches: int = 0
    all_branches: int = 0
    statements: int = 0
    all_statements: int = 0

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.branches + other.branches,
            self.all_branches + other.all_branches,
            self.statements + other.statements,
            self.all_statements + other.all_statements,
        )


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the table of a report that `coverage json` wrote, which has measured branches.

    Raises KeyError for anything else.
    """
    files = {name: _measured(file["summary"]) for name, file in sorted(report["files"].items())}
    rows = [f"{'branches':>9} {'statements':>11}"]
    for package in _PACKAGES:
        own = {name: found for name, found in files.items() if PurePosixPath(package) in PurePosixPath(name).parents}
        rows.append(_row(package, sum(own.values(), Measured())))
        rows += [_row(f"  {PurePosixPath(name).relative_to(package)}", found) for name, found in own.items()]
    return rows


def _measured(summary: Mapping[str, int]) -> Measured:
    return Measured(
        summary["covered_branches"], summary["num_branches"], summary["covered_lines"], summary["num_statements"]
    )


def _row(name: str, found: Measured) -> str:
    branches = _percent(found.branches, found.all_branches)
    return f"{branches:>9} {_percent(found.statements, found.all_statements):>11}  {name}"


def _percent(part: int, whole: int) -> str:
    """Return the percentage, rounded down so that only what is whole is 100 %; a dash for a file without any."""
    return f"{100 * part // whole} %" if whole else "-"
