"""Build several cells side by side; one that fails stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from .plan import Cell
from .workshop import CellOutcome, Workshop

Ended = dict[Cell, CellOutcome]


def settled(workshop: Workshop, cells: Sequence[Cell]) -> Ended:
    """Return the outcomes of the cells that need no build, from records alone; starts nothing."""
    ended = {cell: unchanged for cell in cells if (unchanged := workshop.unchanged(cell))}
    for outcome in (outcome for one in ended.values() for outcome in one.outcomes):
        workshop.watcher.ended(outcome)
    return ended


def build_all(workshop: Workshop, cells: Sequence[Cell], jobs: int) -> Ended:
    """Return the outcome of each cell; at most `jobs` are worked on at once.

    On Ctrl-C every running command is ended; cells that are finished by then come back as they are, all others as
    failed with the error "interrupted" (workshop.INTERRUPTED).
    """
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        futures = {cell: pool.submit(workshop.build, cell) for cell in cells}
        try:
            wait(futures.values())
        except BaseException as reason:
            workshop.stop.set()  # the cells that wait are answered by it at once, too
            wait(futures.values())
            if not isinstance(reason, KeyboardInterrupt):
                raise
    return {cell: future.result() for cell, future in futures.items()}
