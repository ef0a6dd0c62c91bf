"""Log lines with a priority, so that `journalctl -p warning -u pgpool2-cluster` shows the warnings and nothing else.

On a stream that systemd has connected to the journal, each line starts with the prefix of its priority (sd-daemon(3)).
On any other stream, such as a terminal or a pipe, the text stays as it is.

Which priority a message has:
- `error`: the node could not do something, and an administrator must act;
- `warning`: something failed or is degraded, and the node retries or continues without it;
- `info`: the node did something, or reports progress.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import TracebackType
from typing import TextIO

from . import plain
from .errors import ClusterError


class Priority(IntEnum):
    """A priority of syslog(3); the journal keeps it as PRIORITY."""

    ERROR = 3
    WARNING = 4
    INFO = 6


def error(text: str, *, stream: TextIO | None = None) -> None:
    """Log that something failed and an administrator has to act, on `stream` or else on standard output."""
    _write(Priority.ERROR, text, stream)


def warning(text: str, *, stream: TextIO | None = None) -> None:
    """Log that something failed or is degraded, on `stream` or else on standard output."""
    _write(Priority.WARNING, text, stream)


def refusals(errors: Iterable[ClusterError]) -> None:
    """Log one line on standard error for each file that could not be written; under a unit, the journal has them."""
    for refused in errors:
        error(plain.shown(f"pgpoolctl: {refused.message}; hint: {refused.hint}"), stream=sys.stderr)


def info(text: str, *, stream: TextIO | None = None) -> None:
    """Log what the node did, on `stream` or else on standard output."""
    _write(Priority.INFO, text, stream)


def entry(priority: Priority, text: str, fields: Mapping[str, str]) -> None:
    """Log `text` with further fields of the journal, as one entry.

    If standard output is not connected to the journal, or the journal does not accept the entry, log the text alone.
    """
    from . import journal  # noqa: PLC0415 - every hook imports this module, and none of them logs an entry

    known = {"MESSAGE": text, "PRIORITY": f"{priority:d}", "SYSLOG_IDENTIFIER": "pgpoolctl"}
    if not (_is_journal(sys.stdout) and journal.send({**known, **fields})):
        _write(priority, text, None)


def uncaught_as_errors() -> None:
    """Give the tracebacks of uncaught exceptions, in any thread, the priority of an error."""
    sys.excepthook = _uncaught
    threading.excepthook = lambda failed: _uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _uncaught(kind: type[BaseException], failure: BaseException | None, trace: TracebackType | None) -> None:
    import traceback  # noqa: PLC0415 - every hook imports this module, and few of them fail

    if not issubclass(kind, SystemExit):  # a thread may end with one, and Python prints nothing then
        error("".join(traceback.format_exception(kind, failure, trace)).rstrip("\n"), stream=sys.stderr)


def _write(priority: Priority, text: str, stream: TextIO | None) -> None:
    stream = stream or sys.stdout
    lines = text.split("\n")
    if _is_journal(stream):
        # The journal reads lines: without a prefix of its own, a further line would have the unit's default priority.
        lines = [f"<{priority:d}>{line}" for line in lines]
    print("\n".join(lines), file=stream, flush=True)


def _is_journal(stream: TextIO) -> bool:
    """Return whether systemd has connected the stream to the journal (systemd.exec(5), $JOURNAL_STREAM).

    A program inherits the variable from its parent even where its own output goes to a file or a pipe, so the device
    and inode in it are compared with the stream's.
    """
    wanted = os.environ.get("JOURNAL_STREAM")
    if not wanted:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return wanted == f"{found.st_dev}:{found.st_ino}"
