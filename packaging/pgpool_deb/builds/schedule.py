"""Build several cells in parallel; the failure of one stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from .plan import Cell
from .workshop import CellOutcome, Workshop

Outcomes = dict[Cell, CellOutcome]


def settled(workshop: Workshop, cells: Sequence[Cell]) -> Outcomes:
    """Return the outcomes of the cells that need no build; reads only records."""
    outcomes = {cell: unchanged for cell in cells if (unchanged := workshop.unchanged(cell))}
    for cell_outcome in outcomes.values():
        for outcome in cell_outcome.outcomes:
            workshop.watcher.ended(outcome)
    return outcomes


def build_all(workshop: Workshop, cells: Sequence[Cell], jobs: int) -> Outcomes:
    """Build the cells, at most `jobs` at once, and return their outcomes.

    Ctrl-C ends every running command. Cells that are already built keep their outcomes; all others fail with the error
    "interrupted" (workshop.INTERRUPTED).
    """
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = {cell: pool.submit(workshop.build, cell) for cell in cells}
        try:
            wait(futures.values())
        except BaseException as reason:
            workshop.stop.set()  # this also ends the cells that have not started
            wait(futures.values())
            if not isinstance(reason, KeyboardInterrupt):
                raise
    return {cell: future.result() for cell, future in futures.items()}
