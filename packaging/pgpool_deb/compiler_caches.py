"""What builds leave for later ones (ccache's folder, kept files), apart by trust.

It lies there under names that anybody can compute, and it is what a build made it: a stranger's source could leave
objects for a pinned release. So only builds of proved releases write to the folder PROVED. Any other source has a
folder of its own, which begins as a copy of that one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from . import namespaces
from .cache import Cache
from .command import Runner

PROVED = "proved"
"""The trust of proved releases, and of what is this checkout's own."""
NAME = "compilers"
"""The folder of the cache that holds them all."""
_BEFORE = "compiler"
"""Its name in versions before, whose folders all sources shared; a plain user's may belong to a subordinate id."""
KEPT_OTHERS = 5
"""How many folders of other sources are kept for a release: those used last."""


def trust_in(text: str) -> str:
    """Return the name of the folder of a source that is known by `text`: its path, or its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def folder(cache: Cache, release: str, trust: str, runner: Runner) -> Path:
    """Return the folder that a build of this trust sees as /cache, made where it is missing.

    Raises CommandFailed where it cannot be made.
    """
    namespaces.remove(cache.path / _BEFORE)
    cache.private(NAME)
    place = cache.folder(NAME, release, trust)
    os.utime(place)
    found = place / "cache"
    if not found.exists():
        _begin(found, cache.path / NAME / release / PROVED / "cache", runner)
    _forget_others(place)
    return found


def _begin(found: Path, proved: Path, runner: Runner) -> None:
    if found == proved or not proved.exists():
        found.mkdir()
        return
    partial = found.with_name("partial")
    namespaces.remove(partial)
    runner.run([*namespaces.as_root(), "cp", "-a", "--reflink=auto", str(proved), str(partial)])
    partial.rename(found)


def _forget_others(used: Path) -> None:
    """Remove the folders used longest ago."""
    others = [path for path in used.parent.iterdir() if path.name not in (PROVED, used.name)]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: -(KEPT_OTHERS - 1)]:
        namespaces.remove(path)
