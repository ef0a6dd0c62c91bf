"""Runs of build-deb in a copy of the checkout: their dist/ is their own, and an edit meanwhile does no harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pgpool_deb.cache import Cache
from pgpool_deb.download import sha256_of

PROGRAM = "import sys; sys.path.insert(0, 'packaging'); from pgpool_deb.program import main; main('.')"
SAME = (".deb", ".dsc", ".tar.xz", ".orig.tar.gz")
"""Files that must be the same however often and wherever they are built."""


def copy_of(checkout: Path, place: Path) -> Path:
    """Copy what git knows of a checkout, and what it would be told of, to a new folder, and return that."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (checkout / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, place / name)
    return place


def started(checkout: Path, cache: Cache, *words: str) -> subprocess.Popen[str]:
    """Start build-deb in a checkout, with a cache of its own; standard output has what it says of errors, too."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "build-deb", *words],
        cwd=checkout,
        env={**os.environ, "PGPOOL_DEB_CACHE": str(cache.path), "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_it_compiles(process: subprocess.Popen[str]) -> str:
    """Read what build-deb prints until a cell compiles, and return that."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.endswith(": compile\n"):
            break
    return "".join(printed)


def same_files(dist: Path, releases: Iterable[str]) -> dict[str, str]:
    """Return name and SHA-256 of the files that must be the same each time."""
    found = [path for release in releases for path in (dist / release).iterdir() if path.name.endswith(SAME)]
    return {path.name: sha256_of(path) for path in found}
