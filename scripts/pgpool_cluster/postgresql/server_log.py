"""Find the last words of a PostgreSQL server, wherever its log goes and in whichever language it is.

The log may be the file of pg_ctlcluster, a file of the logging collector (text, CSV or JSON), or the journal, which
also has the messages to syslog. The words of each language come from PostgreSQL's own message catalogs.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..ground import paths, programs
from ..machine.server import Instance
from . import message_catalogs

_TAIL_BYTES = 65536
_JOURNAL_SECONDS = 10.0
_JOURNAL_LINES = 300
_ENCODINGS = ("euc_jp", "euc_kr", "gb18030", "koi8_r", "iso8859_5", "iso8859_2", "iso8859_1")
"""Encodings for logs that are not UTF-8; the first one in which PostgreSQL's words appear is used."""
_CSV_USER, _CSV_SEVERITY, _CSV_MESSAGE, _CSV_DETAIL = 1, 11, 13, 14
"""Columns of csvlog, 13 to 18."""


@dataclass(frozen=True, slots=True)
class _LogMessage:
    """A message in a log; `last`: it may be the reason why the server ended."""

    message: str
    detail: str = ""
    last: bool = False


def last_words(instance: Instance) -> str:
    """Return the final error of the server's current or latest run, with its detail; "" if the log has none."""
    known = message_catalogs.words(instance.name.major)
    for name, text in _newest_first(instance):
        entries = list(_entries(name, text, known))
        starts = (index for index, entry in enumerate(entries) if known.starting.search(entry.message))
        began = max(starts, default=None)
        run = entries if began is None else entries[began + 1 :]
        errors = [entry for entry in run if entry.last and not known.passing.search(entry.message)]
        if errors:
            return f"{errors[-1].message}: {errors[-1].detail}" if errors[-1].detail else errors[-1].message
        if began is not None:
            return ""
    return ""


def _newest_first(instance: Instance) -> Iterator[tuple[str, str]]:
    """Yield the tail of each log with the name of its file, the newest first."""
    known = message_catalogs.words(instance.name.major)
    found = []
    for path in _files(instance):
        with contextlib.suppress(OSError):  # it may just have been rotated
            found.append((path.stat().st_mtime, path.name, _decoded(_tail(path), known)))
    journal = _journal(instance)
    lines = [line for line in journal.splitlines() if re.match(r"\d+\.\d+ ", line)]
    if lines:
        found.append((float(lines[-1].split(" ", 1)[0]), "journal", journal))
    for _, name, text in sorted(found, reverse=True):
        yield name, text


def _files(instance: Instance) -> list[Path]:
    """Return the existing log files of pg_ctlcluster and of the logging collector."""
    own = paths.POSTGRESQL_LOGS / f"postgresql-{instance.name.major}-{instance.name.name}.log"
    found = [instance.configuration / "log", own]
    try:
        lines = (instance.data / "current_logfiles").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found += [instance.data / line.split(" ", 1)[1] for line in lines if " " in line]
    return [path for path in found if path.is_file()]


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            text = stream.read()
    except OSError:
        return b""
    return text if size <= _TAIL_BYTES else text.partition(b"\n")[2]


def _journal(instance: Instance) -> str:
    options = ("--quiet", "--no-pager", "--boot", "--output=short-unix", f"--lines={_JOURNAL_LINES}")
    command = ["journalctl", *options, f"--unit={instance.unit}"]
    try:
        return programs.attempt(command, seconds=_JOURNAL_SECONDS).stdout
    except programs.ProgramError:
        return ""


def _decoded(text: bytes, known: message_catalogs.Words) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        for encoding in _ENCODINGS:
            found = text.decode(encoding, errors="replace")
            if any(f"{word}:" in found for word in known.fatal if not word.isascii()):
                return found
        return text.decode(errors="replace")


def _entries(name: str, text: str, known: message_catalogs.Words) -> Iterator[_LogMessage]:
    if name.endswith(".csv"):
        return _csv(text, known)
    return _json(text, known) if name.endswith(".json") else _plain(text, known)


def _csv(text: str, known: message_catalogs.Words) -> Iterator[_LogMessage]:
    lines = text.splitlines(keepends=True)
    first = next((place for place, line in enumerate(lines) if re.match(r"\d{4}-\d\d-\d\d ", line)), len(lines))
    rows = csv.reader(line.replace("\0", "") for line in lines[first:])
    try:
        for row in rows:
            if len(row) > _CSV_DETAIL:
                last = row[_CSV_SEVERITY] in known.fatal and not row[_CSV_USER]
                yield _LogMessage(row[_CSV_MESSAGE], row[_CSV_DETAIL], last)
    except csv.Error:  # the last record is incomplete
        return


def _json(text: str, known: message_catalogs.Words) -> Iterator[_LogMessage]:
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            last = found.get("error_severity") in known.fatal and not found.get("user")
            yield _LogMessage(str(found.get("message", "")), str(found.get("detail", "")), last)


def _plain(text: str, known: message_catalogs.Words) -> Iterator[_LogMessage]:
    """Read a plain-text log; a message with user@database, from Debian's log_line_prefix, belongs to a client."""
    bad = re.compile(rf"^(.*?)(?<!\w)(?:{'|'.join(map(re.escape, sorted(known.fatal)))})\s?:\s{{1,2}}(.*)")
    more = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(known.detail)))})\s?:\s{{1,2}}(.*)")
    lines = text.splitlines()
    for place, line in enumerate(lines):
        found = bad.search(line)
        if found is None:
            yield _LogMessage(line)
            continue
        detail = more.search(lines[place + 1]) if place + 1 < len(lines) else None
        yield _LogMessage(found[2], detail[1] if detail else "", not re.search(r"\S@\S+ $", found[1]))
