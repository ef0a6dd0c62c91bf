"""How long builds took: what the display shows as expected."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from . import atomic


@dataclass(slots=True)
class History:
    """Seconds of the last build of each cell; losing the file costs only the expectation."""

    path: Path
    _seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read the history; an unreadable one is an empty one."""
        try:
            return cls(path, {str(name): float(took) for name, took in json.loads(path.read_text()).items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(path)

    def expected(self, cell: str) -> float | None:
        """Return the seconds that the last build of `cell` took, or None."""
        return self._seconds.get(cell)

    def note(self, cell: str, seconds: float) -> None:
        """Remember how long a build of `cell` took."""
        with self._lock:
            self._seconds[cell] = round(seconds, 1)
            atomic.write(self.path, json.dumps(self._seconds, indent=1))
