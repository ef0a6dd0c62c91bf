"""Show the progress of builds: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pgpool_deb.builds.history import History
from pgpool_deb.builds.workshop import BuildStage, BuildState, Outcome
from pgpool_deb.packages.source_package import SourcePackage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table


_STYLES = {str(BuildState.FAILED): "red", str(BuildState.BUILT): "green", str(BuildState.UNCHANGED): "green"}


class PlainDisplay:
    """Prints one line for each event, for logs and pipes."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is nothing to restore."""

    def stage(self, package: SourcePackage, stage: BuildStage, log: Path) -> None:
        """Print that `package` enters `stage`; before the first stage, also print how long its last build took."""
        if stage is BuildStage.ROOT:
            expected = self._history.expected(package.name)
            took = f", about {expected:.0f} s" if expected else ""
            self._print(f"{package.name}: started{took}; log: {log}")
        self._print(f"{package.name}: {stage}")

    def ended(self, outcome: Outcome) -> None:
        """Print how a build ended."""
        self._print(f"{outcome.package.name}: {outcome.state} after {outcome.seconds:.1f} s")

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)


class LiveDisplay:
    """A table of packages that is redrawn four times a second."""

    def __init__(self, history: History, packages: Iterable[SourcePackage], console: Console) -> None:
        from rich.live import Live  # noqa: PLC0415 - not needed where nothing is built

        self._history = history
        self._rows: dict[str, tuple[str, float, float | None, Path | None]] = {
            package.name: (BuildStage.WAITING, time.monotonic(), None, None) for package in packages
        }
        self._lock = threading.Lock()
        self._live: Live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, package: SourcePackage, stage: BuildStage, log: Path) -> None:
        """Show that `package` enters `stage`."""
        with self._lock:
            _, began, _, _ = self._rows[package.name]
            began = time.monotonic() if stage is BuildStage.ROOT else began
            self._rows[package.name] = (stage, began, None, log)

    def ended(self, outcome: Outcome) -> None:
        """Show how a build ended."""
        with self._lock:
            self._rows[outcome.package.name] = (outcome.state, 0.0, outcome.seconds, outcome.log)

    def _table(self) -> Table:
        from rich.table import Table  # noqa: PLC0415

        table = Table("package", "stage", "elapsed", "expected", "log", box=None)
        with self._lock:
            for name, (stage, began, seconds, log) in self._rows.items():
                took = time.monotonic() - began if seconds is None else seconds
                elapsed = "" if stage == BuildStage.WAITING else f"{took:.0f} s"
                expected = self._history.expected(name)
                known = f"{expected:.0f} s" if expected else ""
                table.add_row(name, stage, elapsed, known, str(log or ""), style=_STYLES.get(stage, ""))
        return table


def display_for(history: History, packages: Iterable[SourcePackage]) -> PlainDisplay | LiveDisplay:
    """Return the live table on a terminal, plain lines elsewhere (also with TERM=dumb or CI set)."""
    if not sys.stdout.isatty() or os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return PlainDisplay(history)
    from rich.console import Console  # noqa: PLC0415

    return LiveDisplay(history, packages, Console())
