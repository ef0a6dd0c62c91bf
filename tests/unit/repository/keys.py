"""Keys that gpg makes for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.repository.conftest import FIRST

from pgpool_deb.repository import gpg


@contextmanager
def gnupg(folder: Path, moment: int = FIRST) -> Iterator[list[str]]:
    """The command of gpg with this folder, which is made, at a time."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with gpg.at_short_path(folder.parent) as place:
        home = str(place / folder.name)
        yield ["gpg", "--homedir", home, "--batch", "--passphrase", "", "--faked-system-time", f"{moment}!"]
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def output(*command: str) -> bytes:
    """What a command prints, which must succeed."""
    return subprocess.run(command, check=True, capture_output=True).stdout


def secret_key(place: Path, name: str, made_of: str = "ed25519", *, ends: str = "never") -> Path:
    """A file with a secret key that gpg made."""
    with gnupg(place / f"gnupg-{name}") as command:
        output(*command, "--quick-generate-key", name, made_of, "sign", ends)
        path = place / f"{name}.asc"
        path.write_bytes(output(*command, "--armor", "--export-secret-keys", name))
    return path
