"""Install missing Debian packages that the build machine itself needs, and print which and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.progress import Report

from .archive import KEYRING


@dataclass(frozen=True, slots=True)
class Tool:
    """A Debian package, and the program on the PATH or the file that shows that it is installed."""

    package: str
    shown_by: str
    why: str

    def there(self) -> bool:
        """Return whether the tool is installed on this machine."""
        if self.shown_by.startswith("/"):
            return Path(self.shown_by).exists()
        return shutil.which(self.shown_by, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


ROOTS = (
    Tool("mmdebstrap", "mmdebstrap", "it makes the clean Debian roots that packages are built in"),
    Tool("debian-archive-keyring", KEYRING, "it verifies the packages that roots are made of"),
)
USER_ROOTS = (Tool("uidmap", "newuidmap", "it lets a plain user make roots in a user namespace"),)
DOCKER = (Tool("docker.io", "dockerd", "tests boot Debian hosts as containers"),)
PATCHES = (Tool("patch", "patch", "it tries which of our patches fit a version that is not proved"),)
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
LINTERS = (Tool("shellcheck", "shellcheck", "it checks shell scripts"),)
UNIT_TESTS = (*LINTERS, *REPOSITORIES)
MODEL_TESTS = (
    Tool("spin", "spin", "it explores the model of failover"),
    Tool("gcc", "gcc", "it compiles the explorations that spin writes"),
    Tool("libc6-dev", "/usr/include/stdio.h", "the explorations include its headers"),
)
PACKAGE_TESTS = (*REPOSITORIES, *KILLERS, *SEQUOIA)


_LOCK_SECONDS = 300.0
"""How long to wait for another apt, which for example installs upgrades at a machine's first boot."""
_LOCK_PAUSE_SECONDS = 2.0


def for_roots() -> tuple[Tool, ...]:
    """Return the tools that this user needs to make roots."""
    return ROOTS if os.geteuid() == 0 else ROOTS + USER_ROOTS


def require(tools: Sequence[Tool], *, install: bool, report: Report) -> None:
    """Install the missing ones of `tools` with apt, as root or through sudo; reports which and why.

    Raises MachineError if `install` forbids it, if the user may not install packages, or if apt fails.
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
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "--no-install-recommends"]
    _apt([*prefix, *quiet, *names], by_hand, report)
    absent = [tool for tool in missing if not tool.there()]
    if absent:
        raise MachineError(f"apt installed {absent[0].package}, but {absent[0].shown_by} is missing", hint=by_hand)


def _as_root(package: str, by_hand: str) -> list[str]:
    if os.geteuid() == 0:
        return []
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    check = ["sudo", "-v"] if asks else ["sudo", "-n", "true"]
    if shutil.which("sudo") is None or subprocess.run(check, capture_output=not asks, check=False).returncode != 0:
        raise MachineError(f"{package} is missing and this user cannot install it", hint=by_hand)
    return ["sudo"]


def _apt(command: Sequence[str], by_hand: str, report: Report) -> None:
    """Run apt-get; retry while another apt works on this machine, as at its first boot."""
    deadline = time.monotonic() + _LOCK_SECONDS
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    waiting = False
    while True:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment
        )
        if answer.returncode == 0:
            return
        lines = [line for line in answer.stderr.splitlines() if line.startswith("E:")] or answer.stderr.splitlines()
        reason = lines[0] if lines else str(answer.returncode)
        if "Could not get lock" not in reason or time.monotonic() > deadline:
            raise MachineError(f"apt failed: {reason}", hint=f"{by_hand} shows all of apt's output")
        if not waiting:
            report(f"waiting for another apt: {reason.removeprefix('E: ')}")
        waiting = True
        time.sleep(_LOCK_PAUSE_SECONDS)
