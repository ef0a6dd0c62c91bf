"""Commands that act as root over files of their own: as root, or as a plain user in a user namespace.

A plain user's namespace maps 0 to the user and everything else to the user's range of /etc/subuid, so that roots made
in it belong to the user, and every command sees them the same way.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from .errors import MachineError

_OWN = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]


@cache
def _user_namespace() -> tuple[str, ...]:
    """Flags that make this user root of a namespace; none for root. Raises MachineError where it cannot be had."""
    if os.geteuid() == 0:
        return ()
    flags = ("--user", "--map-root-user", "--map-auto")
    answer = subprocess.run(["unshare", *flags, "true"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        reason = answer.stderr.strip().splitlines()
        raise MachineError(
            f"this user cannot make a user namespace: {reason[-1] if reason else 'unshare failed'}",
            hint="apt-get install uidmap, and give the user a range in /etc/subuid and /etc/subgid; or run as root",
        )
    return flags


def as_root(*, confined: bool = False) -> list[str]:
    """Return the words to put before a command: root, own mounts and processes; `confined` takes the network away.

    Everything the command mounts or starts ends with it.
    """
    return ["unshare", *_user_namespace(), *_OWN, *(["--net"] if confined else [])]


def remove(path: Path) -> None:
    """Remove a tree of any ownership that the namespace covers; does nothing where it is gone."""
    if path.exists():
        subprocess.run([*as_root(), "rm", "-rf", "--one-file-system", str(path)], check=True, capture_output=True)
