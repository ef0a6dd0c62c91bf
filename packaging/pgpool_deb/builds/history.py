"""Remember how long builds took, so that the display can show the expected time."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from pgpool_deb.ground import atomic


@dataclass(slots=True)
class History:
    """The seconds of each package's last build; losing the file costs only the expected times."""

    path: Path
    _seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, path: Path) -> History:
        """Read the history; an unreadable file counts as empty."""
        try:
            return cls(path, {str(name): float(took) for name, took in json.loads(path.read_text()).items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(path)

    def expected(self, build: str) -> float | None:
        """Return the seconds that the last build of this name took, or None."""
        return self._seconds.get(build)

    def note(self, build: str, seconds: float) -> None:
        """Remember how long the build of this name took."""
        with self._lock:
            self._seconds[build] = round(seconds, 1)
            atomic.write(self.path, json.dumps(self._seconds, indent=1))
