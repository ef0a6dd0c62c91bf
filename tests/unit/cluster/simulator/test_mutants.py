"""Each mutant of the level `simulation` fits the package as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.simulation.mutants import MUTANTS, Mutant

PACKAGE = Path(__file__).parents[4] / "scripts" / "pgpool_cluster"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_replaces_one_place_and_compiles(mutant: Mutant) -> None:
    text = (PACKAGE / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
