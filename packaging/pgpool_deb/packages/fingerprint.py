"""Hash the named inputs of a package: equal hashes prove it unchanged, unequal ones show what changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Inputs = Mapping[str, str]
"""Name of an input (a path, `pgpool`, `majors`, `package libssl-dev` …) to its value or hash."""


def of_file(path: Path) -> str:
    """Return a SHA-256 of a file's bytes and its executable bit."""
    executable = b"x" if path.stat().st_mode & 0o100 else b"-"
    return hashlib.sha256(executable + path.read_bytes()).hexdigest()


def of_bytes(content: bytes, mode: int) -> str:
    """Return a SHA-256 of the bytes and permission bits of a file that is not written yet."""
    return hashlib.sha256(f"{mode:o} ".encode() + content).hexdigest()


def key(inputs: Inputs) -> str:
    """Return one hash of all inputs."""
    return hashlib.sha256(json.dumps(dict(sorted(inputs.items()))).encode()).hexdigest()


def differences(before: Inputs, now: Inputs) -> Sequence[str]:
    """Describe the differences between two sets of inputs, one line each, in the order of the names."""
    return list(_differences(before, now))


def _differences(before: Inputs, now: Inputs) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if old is None:
            yield f"{name} is new"
        elif new is None:
            yield f"{name} is gone"
        elif len(old) == 64 or len(new) == 64:
            yield f"{name} changed"
        else:
            yield f"{name} changed from {old} to {new}"
