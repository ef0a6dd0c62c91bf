"""Add packages to a suite; a new architecture also gets the Contents of packages for all architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import indexer, stanzas
from .stanzas import Indexed
from .suites import Suite


def grow(repository: Path, suite: Suite, added: Indexed) -> None:
    """Add packages that the suite lacks and whose files are in the pool.

    An architecture that is new in the suite also gets the Contents of the suite's existing `Architecture: all`
    packages. The indexes of the other architectures do not change. Raises MachineError if apt-ftparchive fails.
    """
    new = {name for name in added.contents if name not in suite.contents}
    shared = [file for one in suite.packages if one.architecture == "all" for file in one.files]
    if new and shared:
        there = indexer.contents(repository, shared, new)
        lines = {name: stanzas.merged_contents(text, there.get(name, "")) for name, text in added.contents.items()}
        added = replace(added, contents=lines)
    suite.grow(added)
