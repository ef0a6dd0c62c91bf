"""A WAL archive with its files, for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

FIRST = "000000010000000000000001"
MEGABYTE = 1 << 20
HALF_EMPTY = os.urandom(300_000) + bytes(MEGABYTE - 300_000)
NAMES = [FIRST, f"{FIRST}.partial", f"{FIRST}.00000028.backup", "00000002.history"]
TRICKS = ["", ".", "..", "../x", "/etc/passwd", f"{FIRST}/../x", f"{FIRST}.gz", f"{FIRST}\n", FIRST[:-1], f"{FIRST}0",
          "00000001000000000000000a", "$(reboot)", "x.history", f"{FIRST}.backup", "--compress"]  # fmt: skip


def wal(pg_wal: Path, name: str = FIRST, content: bytes = HALF_EMPTY) -> Path:
    path = pg_wal / name
    path.write_bytes(content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail
