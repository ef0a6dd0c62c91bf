"""Query dpkg for the versions of installed packages."""

from __future__ import annotations

import re

from ..ground import programs
from ..ground.programs import ProgramError

_DPKG_SECONDS = 5.0
_OF_RELEASE = re.compile(r"[+~].*")
"""The part of a version that names the Debian release a package was built for."""


def version(package: str) -> str:
    """Return a package's version without the part that names its Debian release; "" if it is not installed."""
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", package]
    try:
        status, _, found = programs.run(command, seconds=_DPKG_SECONDS).partition(" ")
    except ProgramError:
        return ""
    return _OF_RELEASE.sub("", found.strip()) if status == "installed" else ""
