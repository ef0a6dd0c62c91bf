"""Run commands as root over files of their own: by root, or by a plain user in a user namespace.

A plain user's namespace maps uid 0 to the user and all other uids to the user's range in /etc/subuid. Roots made in it
belong to the user, and every command sees the same owners.
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
    """Return unshare's flags that make this user root of a namespace, none for root.

    Raises MachineError if the machine does not allow one.
    """
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
    """Return the prefix that runs a command as root with its own mounts and processes; `confined` removes the network.

    Everything that the command mounts or starts ends with it.
    """
    return ["unshare", *_user_namespace(), *_OWN, *(["--net"] if confined else [])]


def remove(path: Path) -> None:
    """Remove a tree whose owners the namespace maps; does nothing if it does not exist."""
    if path.exists():
        subprocess.run([*as_root(), "rm", "-rf", "--one-file-system", str(path)], check=True, capture_output=True)
