"""Read what a server's folders say about it while it does not run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..decision.facts.facts import Lsn, Switch
from ..ground import programs
from ..machine.server import Instance

_PROGRAM_SECONDS = 10.0
_SHUTDOWN_CHECKPOINT_BYTES = 114
"""Length of the record, PostgreSQL 13 to 18."""


def record_length(instance: Instance, timeline: int, start: Lsn) -> int:
    """Return the length of the record at `start`; the length of a shutdown checkpoint if pg_waldump fails."""
    words = [
        instance.program("pg_waldump"),
        f"--path={instance.data / 'pg_wal'}",
        f"--timeline={timeline}",
        f"--start={start}",
        "--limit=1",
    ]
    try:
        answer = programs.attempt(words, seconds=_PROGRAM_SECONDS, environment={"LC_ALL": "C"})
    except programs.ProgramError:
        return _SHUTDOWN_CHECKPOINT_BYTES
    match = re.search(r"len \(rec/tot\):\s*\d+/\s*(\d+)", answer.stdout)
    return int(match[1]) if match else _SHUTDOWN_CHECKPOINT_BYTES


def received_timeline(data: Path) -> int:
    """Return the latest timeline of which a standby has WAL, from the names of its segments; 0 if it has none.

    The server reports this timeline only while it receives (pg_stat_wal_receiver), and in its control file only after
    the next restartpoint, minutes later. Neither helps if a primary is lost soon after its promotion.
    """
    with os.scandir(data / "pg_wal") as entries:
        names = [entry.name for entry in entries]
    return max((int(name[:8], 16) for name in names if re.fullmatch(r"[0-9A-F]{24}", name)), default=0)


def history(data: Path, timeline: int) -> tuple[Switch, ...]:
    """Return the timelines before `timeline`, from its history file; () for the first one."""
    try:
        text = (data / "pg_wal" / f"{timeline:08X}.history").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    switches = re.findall(r"^(\d+)\t([0-9A-F]+/[0-9A-F]+)", text, re.MULTILINE)
    return tuple(Switch(int(number), Lsn.parse(lsn)) for number, lsn in switches)


def is_standby(data: Path) -> bool:
    """Return whether a server with this data is a standby. It removes standby.signal before it accepts writes."""
    return (data / "standby.signal").exists()


def starts_by_itself(instance: Instance) -> bool:
    """Return whether start.conf lets the server start at boot (pg_createcluster(1))."""
    try:
        lines = (instance.configuration / "start.conf").read_text(encoding="utf-8").splitlines()
    except OSError:
        return True
    words = [line.split("#")[0].strip() for line in lines]
    return next((word for word in words if word), "auto") == "auto"
