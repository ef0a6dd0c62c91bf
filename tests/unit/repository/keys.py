"""Create keys with gpg for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.repository.conftest import FIRST

from pgpool_deb.repository import gpg


@contextmanager
def gnupg(folder: Path, moment: int = FIRST) -> Iterator[list[str]]:
    """Create a gpg home folder, and yield the command line of gpg with this folder and time."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with gpg.at_short_path(folder.parent) as place:
        home = str(place / folder.name)
        yield ["gpg", "--homedir", home, "--batch", "--passphrase", "", "--faked-system-time", f"{moment}!"]
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def output(*command: str) -> bytes:
    """Run a command, which must succeed, and return its output."""
    return subprocess.run(command, check=True, capture_output=True).stdout


def secret_key(place: Path, name: str, made_of: str = "ed25519", *, ends: str = "never") -> Path:
    """Create a secret key with gpg, and return the path of the file with it."""
    with gnupg(place / f"gnupg-{name}") as command:
        output(*command, "--quick-generate-key", name, made_of, "sign", ends)
        path = place / f"{name}.asc"
        path.write_bytes(output(*command, "--armor", "--export-secret-keys", name))
    return path
