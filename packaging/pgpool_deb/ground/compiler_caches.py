"""Folders that builds leave for later builds (ccache's and kept files), separated by trust.

A build chooses the contents of its folder, under names that every build can compute. An untrusted source could
therefore plant objects for a pinned release. So only builds of proved releases write to the folder PROVED. Every other
source has its own folder, which starts as a copy of PROVED.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import namespaces
from .cache import Cache
from .command import Runner

PROVED = "proved"
"""The trust of proved releases and of this checkout's own sources."""
NAME = "compilers"
"""The folder of the cache that holds all of these folders."""
_EARLIER_NAME = "compiler"
"""The folder that all sources shared in earlier versions; it may belong to a subordinate uid of a plain user."""
KEPT_OTHERS = 5
"""The number of other sources whose folders are kept for a release: the most recently used ones."""


def trust_in(text: str) -> str:
    """Return the trust of a source that `text` identifies: its path or its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def folder(cache: Cache, release: str, trust: str, runner: Runner) -> Path:
    """Return the folder that a build of this trust sees as /cache, created if missing.

    Raises CommandFailed if it cannot be created.
    """
    namespaces.remove(cache.path / _EARLIER_NAME)
    cache.private(NAME)
    place = cache.folder(NAME, release, trust)
    os.utime(place)
    contents = place / "cache"
    if not contents.exists():
        _create(contents, cache.path / NAME / release / PROVED / "cache", runner)
    _forget_others(place)
    return contents


def _create(contents: Path, proved: Path, runner: Runner) -> None:
    if contents == proved or not proved.exists():
        contents.mkdir()
        return
    partial = contents.with_name("partial")
    namespaces.remove(partial)
    runner.run([*namespaces.as_root(), "cp", "-a", "--reflink=auto", str(proved), str(partial)])
    partial.rename(contents)


def _forget_others(used: Path) -> None:
    """Remove the least recently used folders."""
    others = [path for path in used.parent.iterdir() if path.name not in (PROVED, used.name)]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: -(KEPT_OTHERS - 1)]:
        namespaces.remove(path)
