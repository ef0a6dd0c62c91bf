"""Files that are whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ServerError


def write(path: Path, content: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Put `content` at `path`, which never has half of it, also after a power loss; `owner` is (uid, gid).

    A symbolic link at `path` is replaced, not followed. Raises ServerError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
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


def sync_folder(path: Path) -> None:
    """Let a folder's entries outlive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
