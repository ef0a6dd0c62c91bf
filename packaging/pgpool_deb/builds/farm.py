"""Share the engines of a run among builds: a build runs on the least busy one, and moves on if that one fails."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pgpool_deb.boxes.box import Engine
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.progress import Report


def chosen(busy: Mapping[int, int], of: int, home: int) -> int:
    """Return the index of the least busy engine; `busy` maps the usable ones of `of` engines to their builds.

    Among equally busy ones it is the first from `home` on, so that a repeated build finds its root and its compiler
    cache.
    """
    return min(busy, key=lambda index: (busy[index], (index - home) % of))


@dataclass(slots=True)
class Farm:
    """Lends engines to builds in several threads. It connects to them when a build needs the first one, or in `open`.

    `connect` raises MachineError or UsageError if there is no engine; `report` prints a line for the user.
    """

    connect: Callable[[], Sequence[Engine]]
    report: Report
    _engines: Sequence[Engine] = ()
    _busy: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        """Connect to the engines unless that has been done; raises what `connect` raises."""
        with self._lock:
            if not self._engines:
                self._engines = self.connect()
                self._busy = dict.fromkeys(range(len(self._engines)), 0)

    @contextmanager
    def engine_for(self, build: str) -> Iterator[Engine]:
        """Lend an engine to a build, and remove the boxes that its earlier runs left on the other engines."""
        self.open()
        with self._lock:
            index = chosen(self._busy, len(self._engines), zlib.crc32(build.encode()))
            self._busy[index] += 1
            others = [self._engines[other] for other in self._busy if other != index]
        try:
            for other in others:
                with suppress(MachineError):  # a failing engine is reported when a build runs on it
                    other.forget(build)
            yield self._engines[index]
        finally:
            with self._lock:
                if index in self._busy:
                    self._busy[index] -= 1

    def goes_on_without(self, engine: Engine, error: MachineError) -> bool:
        """Stop lending `engine` and return whether others remain; if it is the last one, keep it and return False."""
        with self._lock:
            index = self._engines.index(engine)
            if list(self._busy) == [index]:
                return False
            if self._busy.pop(index, None) is not None:
                self.report(f"warning: {engine.place} gets no more builds; other endpoints take over: {error.message}")
        return True
