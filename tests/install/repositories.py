"""Repositories of ours as servers see them: below a folder of theirs, with no archive beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.chroot import Chroot

from pgpool_deb.repository import keyring
from pgpool_deb.repository.tree import Repository

Client = Callable[[Repository], Chroot]
"""Makes a clean system that sees a repository."""
PLACE = "/srv/repository"
URL = f"file://{PLACE}"
OFFLINE = "find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec mv {} {}.off ';'"
"""The archive's lists stay, and its packages are below /var/cache/apt."""
UPDATE = "apt-get update -o APT::Get::List-Cleanup=0"
AUDITED = f"{UPDATE} $(dpkg --compare-versions $(dpkg-query -W -f '${{Version}}' apt) lt 2.7 || echo --audit)"
"""An update that says all that apt can find fault with; bookworm's knows no --audit."""


def lines(repository: Repository, suite: str) -> list[str]:
    """The three lines to paste, as index.html has them now."""
    return keyring.lines(URL, suite, (repository.path / "keyring" / f"{keyring.NAME}.gpg").read_bytes())


def pasted(chroot: Chroot, repository: Repository, suite: str) -> str:
    """Paste the first two of the three lines, and return what apt-get update says of all sources."""
    *setup, _ = lines(repository, suite)
    return chroot.run("\n".join([OFFLINE, *setup, f"{AUDITED} 2>&1"]))


def complaints(said: str) -> list[str]:
    """The lines in which apt warns, complains or notes something."""
    prefixes = ("W:", "E:", "N:", "A:", "Warning", "Notice", "Audit", "Error")
    return [line for line in said.splitlines() if line.startswith(prefixes)]


def seen_from(chroot: Chroot, repository: Path) -> Chroot:
    """Give a system a repository's folder, as it is at any time."""
    chroot.binds = (*chroot.binds, (repository, PLACE))
    return chroot
