"""Sign statements again when the key changes, because the new keyring cannot verify the old key's signatures."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgpool_deb.builds.statement import SIGNATURE, STATEMENT

from . import gpg, inside
from .signing import Key
from .stanzas import PoolFile
from .tree import Repository


def statements(repository: Repository, old: bytes, key: Key, moment: int) -> None:
    """Sign each statement of the pool that `key` did not sign but `old`, the previous state's public keys, did.

    A signature by any other key stays, and check-repository reports it. Raises MachineError if gpg fails.
    """
    paths = sorted((repository.path / "pool").rglob(f"*{STATEMENT}"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda path: _signature(repository, path, old, key, moment), paths)
        made = [
            PoolFile.of(f"{path.relative_to(repository.path)}{SIGNATURE}", text)
            for path, text in zip(paths, found, strict=True)
            if text is not None
        ]
    repository.admit(made)


def _signature(repository: Repository, path: Path, old: bytes, key: Key, moment: int) -> bytes | None:
    """Return the new signature of a statement, None if it needs none or must not get one."""
    name = str(path.relative_to(repository.path))
    data, signature = (inside.read(repository.path, one) for one in (name, f"{name}{SIGNATURE}"))
    if not isinstance(data, bytes) or not isinstance(signature, bytes) or gpg.signs(signature, data, key.public):
        return None
    return key.signature(data.decode(), moment).encode() if gpg.signs(signature, data, old) else None
