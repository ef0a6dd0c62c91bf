"""The engines of a run: a build goes to the one with the least to do, and from one that fails to another."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .box import Engine
from .errors import MachineError


def chosen(busy: Mapping[int, int], of: int, home: int) -> int:
    """Return which of `of` engines gets a build: of those in `busy`, with how much they do, the one that does least.

    Of those that do the same it is the first from `home` on, so that a build that comes again finds its root and its
    compiler's cache.
    """
    return min(busy, key=lambda index: (busy[index], (index - home) % of))


@dataclass(slots=True)
class Farm:
    """Lends engines to builds, from several threads; they are looked for when the first one is needed, or by `open`.

    `connect` raises MachineError or UsageError where there is none; `report` takes a line for the user.
    """

    connect: Callable[[], Sequence[Engine]]
    report: Callable[[str], None]
    _engines: Sequence[Engine] = ()
    _busy: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        """Look for the engines, if that has not been done; raises what `connect` does."""
        with self._lock:
            if not self._engines:
                self._engines = self.connect()
                self._busy = dict.fromkeys(range(len(self._engines)), 0)

    @contextmanager
    def engine_for(self, build: str) -> Iterator[Engine]:
        """Lend an engine to the build of that name; what an earlier run of it left with the others is removed."""
        self.open()
        with self._lock:
            index = chosen(self._busy, len(self._engines), zlib.crc32(build.encode()))
            self._busy[index] += 1
            others = [self._engines[other] for other in self._busy if other != index]
        try:
            for other in others:
                with suppress(MachineError):  # it is told once it has something to do
                    other.forget(build)
            yield self._engines[index]
        finally:
            with self._lock:
                if index in self._busy:
                    self._busy[index] -= 1

    def goes_on_without(self, engine: Engine, why: MachineError) -> bool:
        """Lend `engine` to nobody any more, and tell whether others are left; the last one is never given up."""
        with self._lock:
            index = self._engines.index(engine)
            if list(self._busy) == [index]:
                return False
            if self._busy.pop(index, None) is not None:
                self.report(f"warning: {engine.place} gets no more builds, others take them over: {why.message}")
        return True
