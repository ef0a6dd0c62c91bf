"""Adding packages to a suite, with the Contents of what an architecture that is new in it shares with the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import indexer, stanzas
from .stanzas import Indexed
from .suites import Suite


def grow(repository: Path, suite: Suite, added: Indexed) -> None:
    """Add packages that the suite has not, whose files are in the pool.

    An architecture that comes with them also gets the Contents of the packages for all architectures that are there;
    indexes of the others have nothing of the new one. Raises MachineError where apt-ftparchive fails.
    """
    new = {name for name in added.contents if name not in suite.contents}
    shared = [file for one in suite.packages if one.architecture == "all" for file in one.files]
    if new and shared:
        there = indexer.contents(repository, shared, new)
        lines = {name: stanzas.merged_contents(text, there.get(name, "")) for name, text in added.contents.items()}
        added = replace(added, contents=lines)
    suite.grow(added)
