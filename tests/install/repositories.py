"""Our repositories as servers see them: in a local folder, without Debian's archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.chroot import Chroot

from pgpool_deb.repository import keyring
from pgpool_deb.repository.tree import Repository

Client = Callable[[Repository], Chroot]
"""Creates a clean system that sees a repository."""
PLACE = "/srv/repository"
URL = f"file://{PLACE}"
OFFLINE = "find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec mv {} {}.off ';'"
"""Keeps the archive's lists; its packages are below /var/cache/apt."""
UPDATE = "apt-get update -o APT::Get::List-Cleanup=0"
AUDITED = f"{UPDATE} $(dpkg --compare-versions $(dpkg-query -W -f '${{Version}}' apt) lt 2.7 || echo --audit)"
"""An update that reports everything apt can criticize; bookworm's apt has no --audit."""


def lines(repository: Repository, suite: str) -> list[str]:
    """Return the three lines to paste from the current index.html."""
    return keyring.lines(URL, suite, (repository.path / "keyring" / f"{keyring.NAME}.gpg").read_bytes())


def pasted(chroot: Chroot, repository: Repository, suite: str) -> str:
    """Paste the first two of the three lines, and return the output of apt-get update for all sources."""
    *setup, _ = lines(repository, suite)
    return chroot.run("\n".join([OFFLINE, *setup, f"{AUDITED} 2>&1"]))


def complaints(output: str) -> list[str]:
    """Return the warnings, errors and notices in apt's output."""
    prefixes = ("W:", "E:", "N:", "A:", "Warning", "Notice", "Audit", "Error")
    return [line for line in output.splitlines() if line.startswith(prefixes)]


def seen_from(chroot: Chroot, repository: Path) -> Chroot:
    """Make the current content of a repository's folder visible in a system."""
    chroot.binds = (*chroot.binds, (repository, PLACE))
    return chroot
