"""Find the processes and mounts on this machine during and after a broken build."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if f" {path}/" in line]


def children(pid: int) -> list[tuple[int, str]]:
    """Return every process below `pid` with its start time, which distinguishes a reused process number.

    A process that ends during the search has no children.
    """
    result: list[tuple[int, str]] = []
    for task in _threads(pid):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                result += [(int(child), _began(int(child))), *children(int(child))]
    return result


def _threads(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _began(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def alive(processes: list[tuple[int, str]]) -> list[int]:
    return [pid for pid, began in processes if began and _began(pid) == began]


def running_anywhere(words: str) -> bool:
    """Return whether a process of this machine, in any container, has this command line."""
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if cmdline.read_bytes().replace(b"\0", b" ").strip() == words.encode():
                return True
    return False


def eventually(what: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def holding(process: subprocess.Popen[str]) -> bool:
    """Return whether the build below `process` has reached the point where it waits."""
    for pid, _ in children(process.pid):
        try:
            if b"/cache/hold" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False
