"""Requirements of the level `reproducible`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgpool_deb.ground.errors import MachineError


@pytest.fixture(scope="session", autouse=True)
def able() -> None:
    """Raise MachineError if Debian's tools cannot vary the environment or create their namespaces on this machine."""
    if os.geteuid() != 0:
        raise MachineError("tests of the level reproducible need root", hint="run them as root")
    if not Path("/dev/fuse").exists():
        raise MachineError("/dev/fuse is missing, and disorderfs requires it", hint="modprobe fuse")
