"""What this level needs of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgpool_deb.errors import MachineError


@pytest.fixture(scope="session", autouse=True)
def able() -> None:
    """Raise MachineError where Debian's tools could not vary what they vary, or make their namespaces."""
    if os.geteuid() != 0:
        raise MachineError("tests of the level reproducible need root", hint="run them as root")
    if not Path("/dev/fuse").exists():
        raise MachineError("there is no /dev/fuse, by which disorderfs varies the order of files", hint="modprobe fuse")
