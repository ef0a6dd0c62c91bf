"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

from .errors import ServerError

_PARTIAL = ".partial"
_LEFT = 60.0
"""Seconds after which a file that is still partial was left by a crash or a power cut."""


def write(path: Path, content: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Put `content` at `path`, which never has half of it, also after a power loss; `owner` is (uid, gid).

    A symbolic link at `path` is replaced, not followed. Raises ServerError.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                if owner is not None:
                    os.fchown(stream.fileno(), *owner)
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            partial.rename(path)
            sync_folder(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        hint = "free some space, or make it writable, then run the same command again"
        raise ServerError(f"{path} cannot be written: {error.strerror}", hint=hint) from error


def sweep(folder: Path) -> None:
    """Remove what `write` has left unfinished in a folder, so that it does not fill up over the years."""
    with contextlib.suppress(OSError):
        for partial in folder.glob(f".*{_PARTIAL}"):
            with contextlib.suppress(OSError):
                if time.time() - partial.lstat().st_mtime > _LEFT:
                    partial.unlink()


def sync_folder(path: Path) -> None:
    """Let a folder's entries outlive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
