"""Debian packages that the build machine itself needs: installed when missing, with a line saying what and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .archive import KEYRING
from .errors import MachineError


@dataclass(frozen=True, slots=True)
class Tool:
    """A Debian package and what shows that it is there: a program on the PATH, or a file."""

    package: str
    shown_by: str
    why: str

    def there(self) -> bool:
        """Return whether the tool is on this machine."""
        if self.shown_by.startswith("/"):
            return Path(self.shown_by).exists()
        return shutil.which(self.shown_by, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


ROOTS = (
    Tool("mmdebstrap", "mmdebstrap", "it makes the clean Debian roots that packages are built in"),
    Tool("debian-archive-keyring", KEYRING, "what roots are made of is verified with it"),
)
USER_ROOTS = (Tool("uidmap", "newuidmap", "a plain user makes roots in a user namespace"),)
DOCKER = (Tool("docker.io", "dockerd", "tests boot Debian hosts as containers"),)
PATCHES = (Tool("patch", "patch", "it finds out which of our patches fit a version that is not proved"),)
MAILS = (*PATCHES, Tool("git", "git", "it writes patches as mails"))
REPOSITORIES = (
    Tool("apt-utils", "apt-ftparchive", "it makes a repository's indexes"),
    Tool("gnupg", "gpg", "it signs a repository"),
    Tool("gpgv", "gpgv", "it checks a repository's signatures"),
)
KILLERS = (Tool("strace", "strace", "tests kill a publish at its system calls"),)
SEQUOIA = (
    Tool("sq", "sq", "tests sign a repository with keys that it makes"),
    Tool("sqv", "sqv", "tests check a repository's signatures with it, as apt does since trixie"),
)
LINTERS = (Tool("shellcheck", "shellcheck", "shell scripts are checked with it"),)
UNIT_TESTS = (*LINTERS, *REPOSITORIES, *KILLERS, *SEQUOIA)


_LOCK_SECONDS = 300.0
"""How long another apt is waited for, which installs upgrades at a machine's first boot, for example."""
_LOCK_PAUSE = 2.0


def for_roots() -> tuple[Tool, ...]:
    """Return what making roots takes for this user."""
    return ROOTS if os.geteuid() == 0 else ROOTS + USER_ROOTS


def require(tools: Sequence[Tool], *, install: bool, report: Callable[[str], None]) -> None:
    """Install what is missing of `tools` through apt, as root or through sudo; says what and why.

    Raises MachineError where `install` forbids it, or the user may not, or apt fails.
    """
    missing = [tool for tool in tools if not tool.there()]
    if not missing:
        return
    names = [tool.package for tool in missing]
    by_hand = f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {' '.join(names)}"
    if not install:
        raise MachineError(f"{names[0]} is missing and --no-install forbids installing it", hint=by_hand)
    prefix = _as_root(names[0], by_hand)
    for tool in missing:
        report(f"installing {tool.package} with apt: {tool.why}")
    _apt([*prefix, "apt-get", "update", "-q"], by_hand, report)
    _apt([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q",
          "--no-install-recommends", *names], by_hand, report)  # fmt: skip
    absent = [tool for tool in missing if not tool.there()]
    if absent:
        raise MachineError(f"{absent[0].package} was installed but {absent[0].shown_by} is not there", hint=by_hand)


def _as_root(package: str, by_hand: str) -> list[str]:
    if os.geteuid() == 0:
        return []
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    check = ["sudo", "-v"] if asks else ["sudo", "-n", "true"]
    if shutil.which("sudo") is None or subprocess.run(check, capture_output=not asks, check=False).returncode != 0:
        raise MachineError(f"{package} is missing and this user cannot install it", hint=by_hand)
    return ["sudo"]


def _apt(command: Sequence[str], by_hand: str, report: Callable[[str], None]) -> None:
    """Run apt-get; while another one works on this machine, as at its first boot, it is tried again."""
    deadline = time.monotonic() + _LOCK_SECONDS
    waits = False
    while True:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                                env={**os.environ, "LC_ALL": "C.UTF-8"})  # fmt: skip
        if answer.returncode == 0:
            return
        lines = [line for line in answer.stderr.splitlines() if line.startswith("E:")] or answer.stderr.splitlines()
        said = lines[0] if lines else str(answer.returncode)
        if "Could not get lock" not in said or time.monotonic() > deadline:
            raise MachineError(f"apt failed: {said}", hint=f"{by_hand} shows the whole")
        if not waits:
            report(f"waiting for another apt: {said.removeprefix('E: ')}")
        waits = True
        time.sleep(_LOCK_PAUSE)
