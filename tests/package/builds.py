"""Run build-deb in a copy of the checkout, which has its own dist/ and does not change during the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pgpool_deb.ground.cache import Cache
from pgpool_deb.upstream.download import sha256_of

PROGRAM = "import sys; sys.path.insert(0, 'packaging'); from pgpool_deb.program import main; main('.')"
SAME = (".deb", ".dsc", ".tar.xz", ".orig.tar.gz")
"""Files that must be the same however often and wherever they are built."""


def copy_of(checkout: Path, place: Path) -> Path:
    """Copy the tracked and the not ignored files of a checkout to a new folder, and return the folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (checkout / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, place / name)
    return place


def started(checkout: Path, cache: Cache, *words: str) -> subprocess.Popen[str]:
    """Start build-deb in a checkout with its own cache; standard error goes to standard output."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "build-deb", *words],
        cwd=checkout,
        env={**os.environ, "PGPOOL_DEB_CACHE": str(cache.path), "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_it_compiles(process: subprocess.Popen[str]) -> str:
    """Read build-deb's output until a cell compiles, and return it."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.endswith(": compile\n"):
            break
    return "".join(printed)


def same_files(dist: Path, releases: Iterable[str]) -> dict[str, str]:
    """Return name to SHA-256 of the files that every build must reproduce."""
    result = [path for release in releases for path in (dist / release).iterdir() if path.name.endswith(SAME)]
    return {path.name: sha256_of(path) for path in result}
