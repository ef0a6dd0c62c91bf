"""Keep the events of this node in memory, in its file, and in the journal."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Mapping

from ..decision.reports.events import Event, EventKind
from ..ground import log
from ..ground.errors import ServerError
from ..ground.log import Priority
from ..machine.history_file import HistoryFile
from ..transport import wire

_MOST_EVENTS = 1000
"""The number of events that a node keeps in memory, and sends at most."""
_MOST_BYTES = 512 * 2**10
"""The size in bytes of the events that a node sends at most, below the limit of a line (peers.py)."""
_MOST_UNWRITTEN = 200
_SAME_SECONDS = 60.0
"""Seconds within which an action that is repeated with the same outcome is not an event of its own."""
_TERM, _NUMBER = re.compile(r" term \d+"), re.compile(r"\d+")
"""A repeated claim takes another term each time, and an error may count seconds."""
_OPPOSITES: Mapping[str, str] = {EventKind.ATTACH: EventKind.DETACH, EventKind.DETACH: EventKind.ATTACH}
"""Between two attachments of a node, its detachment shows that the second one is not a repetition."""
_ONCE = frozenset({
    EventKind.RECOVER, EventKind.SWITCHOVER, EventKind.ACCEPT_LOSS, EventKind.HOLD, EventKind.RELEASE, EventKind.PAUSE,
    EventKind.END_PAUSE, EventKind.RESTART,
})  # fmt: skip
"""The kinds that an administrator causes, so that each one counts."""
_CLOSE_SECONDS = 2.0
"""Seconds that the end of the agent waits for a slow disk."""


class History:
    """The events of this node. Several threads use it. A thread of its own writes the file, so no disk delays them."""

    def __init__(self, file: HistoryFile | None = None) -> None:
        """Load the file; without one, events are kept in memory and in the journal only."""
        self._lock = threading.Lock()
        self._file = file
        self._events: deque[Event] = deque(_loaded(file), maxlen=_MOST_EVENTS)
        self._same: dict[tuple[str, str], tuple[str, float]] = {}
        """How, and when by the monotonic clock, the last events of each kind and text ended."""
        self._unwritten: queue.Queue[Event | None] = queue.Queue(_MOST_UNWRITTEN)
        self._writer: threading.Thread | None = None

    def add(self, event: Event) -> None:
        """Record an event, unless it repeats one with the same outcome that is less than 60 s old. Never raises."""
        event = event.bounded()
        with self._lock:
            if self._repeats(event):
                return
            self._events.append(event)
        log.entry(Priority.WARNING if event.failed else Priority.INFO, event.text, event.journal_fields)
        self._write(event)

    def _repeats(self, event: Event) -> bool:
        now, key = time.monotonic(), (event.kind, _TERM.sub("", event.what))
        outcome = _NUMBER.sub("", event.failed)
        last = self._same.get(key)
        opposite = _OPPOSITES.get(event.kind)
        self._same = {one: ended for one, ended in self._same.items() if one[0] != opposite}
        self._same[key] = outcome, now
        return event.kind not in _ONCE and last is not None and last[0] == outcome and now - last[1] < _SAME_SECONDS

    def rest(self) -> None:
        """Note that the node has nothing to do, so that the next event is a new one."""
        with self._lock:
            self._same.clear()

    def recent(self, most: int, since: float = 0.0) -> tuple[tuple[Event, ...], bool]:
        """Return the last `most` events since a time, in the order in which they were recorded.

        They are less if they do not fit in an answer. The second value is whether older ones that match are left out.
        """
        with self._lock:
            found = [event for event in self._events if event.time >= since]
        kept: list[Event] = []
        size = 0
        for event in reversed(found):
            size += len(json.dumps(wire.fields(event)))
            if len(kept) >= most or size > _MOST_BYTES:
                break
            kept.append(event)
        return tuple(reversed(kept)), len(kept) < len(found)

    def _write(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            self._unwritten.put_nowait(event)
            self._start_writer(self._file)
        except (queue.Full, RuntimeError) as error:
            why = "the disk is too slow" if isinstance(error, queue.Full) else f"{error}"
            log.warning(f"{self._file.path}: {why}, so an event is only in the journal for now")

    def _start_writer(self, file: HistoryFile) -> None:
        """Start the thread that writes the file, unless it runs. Raises RuntimeError if no thread can start."""
        with self._lock:
            if self._writer is None:
                writer = threading.Thread(target=self._write_all, args=(file,), daemon=True)
                writer.start()
                self._writer = writer

    def _write_all(self, file: HistoryFile) -> None:
        failed = ""
        while (event := self._unwritten.get()) is not None:
            try:
                file.append(event)
                failed = ""
            except ServerError as error:
                if error.message != failed:
                    log.warning(f"{error.message}; hint: {error.hint}")
                failed = error.message

    def close(self) -> None:
        """Write all events to the file, for at most 2 s."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            self._unwritten.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        writer.join(_CLOSE_SECONDS)


def _loaded(file: HistoryFile | None) -> list[Event]:
    try:
        return [] if file is None else file.load()
    except ServerError as error:
        log.warning(f"{error.message}; hint: {error.hint}")
        return []
