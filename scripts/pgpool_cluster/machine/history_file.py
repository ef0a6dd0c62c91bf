"""Keep a node's events in a file of JSON lines that survives crashes and stays small.

The agent alone opens the file, as postgres. A line that a crash has cut off is ignored: each line begins with a line
break, so the next one is whole. A full file becomes `NAME.1`, and replaces the one before it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..decision.reports.events import Event
from ..ground import files
from ..ground.errors import ServerError
from ..transport import wire

_FULL_BYTES = 512 * 2**10
"""The size, in bytes, at which the file is rotated. Together with the one before it, it has less than twice as many."""


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """The file at `path`, in a folder that only the agent's user can change."""

    path: Path

    @property
    def before(self) -> Path:
        """The file before the last rotation."""
        return self.path.with_name(f"{self.path.name}.1")

    def load(self) -> list[Event]:
        """Return the events in the order in which they were appended; raises ServerError if a file cannot be read."""
        found = [files.read(path) for path in (self.before, self.path)]
        lines = [line for file in found if file is not None for line in file.content.split(b"\n")]
        return [event for line in lines if line and (event := _event(line)) is not None]

    def append(self, event: Event) -> None:
        """Append an event durably, and rotate a full file; raises ServerError."""
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self.path, flags, 0o600)
            try:
                os.write(handle, b"\n" + json.dumps(wire.fields(event)).encode())
                os.fdatasync(handle)
                full = os.fstat(handle).st_size > _FULL_BYTES
            finally:
                os.close(handle)
            if full:
                self.path.rename(self.before)
                files.sync_folder(self.path.parent)
        except OSError as error:
            hint = f"df {self.path.parent}; events are in the journal, too"
            raise ServerError(f"{self.path} cannot be written: {error.strerror}", hint=hint) from error


def _event(line: bytes) -> Event | None:
    try:
        return wire.read(Event, json.loads(line), "event").bounded()
    except (ValueError, RecursionError):  # a crash cut it off
        return None
