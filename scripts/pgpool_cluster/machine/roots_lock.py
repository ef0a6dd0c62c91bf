"""Locks that only root can hold, because only root can open their files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..ground import ancestors, files
from ..ground.errors import ServerError
from . import hands


@contextlib.contextmanager
def locked(path: Path, why: str, seconds: float) -> Iterator[None]:
    """Hold a lock while the block runs; raises ServerError(why) if another process holds it for `seconds`."""
    hands.make_folder(path.parent, 0o755)
    intruder = ancestors.intruder(path)
    if intruder:
        raise ServerError(f"{path} is not a safe lock file: {intruder}", hint=f"rm -r {path.parent}; pgpoolctl apply")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        files.lock(handle, path, why, seconds=seconds)
        yield
    finally:
        os.close(handle)
