"""Every reachable state of the model of failover keeps the promises of docs/explanation/failover.md; mutants do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.model.exploration import MODEL, Bounds, explore

THREE = Bounds(nodes=3, synchronous=1, claims=3, writes=2)
DEEP = replace(THREE, claims=4)
STRICT = replace(THREE, synchronous=2)
FIVE = Bounds(nodes=5, synchronous=1, claims=3, writes=1)
WITNESS = replace(DEEP, witnesses=1)
EXCUSES = Bounds(nodes=5, witnesses=2, synchronous=1, claims=2, writes=1, excuse=True)
EXPLORED = (THREE, DEEP, STRICT, WITNESS, FIVE, replace(FIVE, synchronous=2))
MUTANTS = {
    **dict.fromkeys(
        (
            "ANSWER_BEFORE_CUT", "CUT_NOT_DURABLE", "TERM_NOT_DURABLE", "STANDBYS_OFF_BY_ONE", "RANK_IGNORED",
            "PRIMARY_ANSWERS_RUNNING", "ANY_MAJORITY_RESUMES", "HALF_COUNTS", "REWOUND_COUNTS_AT_ONCE",
            "FOLLOWS_AN_OLDER_TERM", "COPY_GOES_ON",
        ),
        THREE,
    ),
    "MAJORITY_OFF_BY_ONE": STRICT,
    **dict.fromkeys(
        ("RANKS_BY_TIMELINE_NUMBER", "RESUME_KEEPS_TIMELINE", "PROMOTED_WHILE_RUNNING", "OWN_CLAIMS_IGNORED"), DEEP
    ),
    "COUNTED_BEFORE_RECORDED": replace(FIVE, synchronous=2),
    **dict.fromkeys(("EXCUSED_EARLY", "LISTED_BEFORE_THE_END", "NO_EXCUSE_RESET", "OLD_EXCUSE_ACCEPTED"), EXCUSES),
}  # fmt: skip
SETTINGS = {"EXCUSE", "NO_PROGRESS", "TRACE"}
"""Names in the model that are no mutants; TRACE prints the states of a counterexample."""


def named(bounds: Bounds) -> str:
    return str(bounds).replace(", ", " ")


@pytest.mark.parametrize("bounds", EXPLORED, ids=named)
def test_every_state_keeps_acknowledged_writes_and_can_get_a_primary(
    bounds: Bounds, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    found = explore(bounds, tmp_path)
    record_testsuite_property(str(bounds), str(found))
    assert found.violated == "", found.output
    assert found.complete
    assert found.states > 1000


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_rules_is_caught(
    mutant: str, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    found = explore(MUTANTS[mutant], tmp_path, mutant)
    record_testsuite_property(mutant, f"{found.violated or 'not caught'}: {found}")
    assert found.violated.startswith("assertion violated"), found.output


def test_every_mutant_of_the_model_is_explored() -> None:
    text = MODEL.read_text(encoding="utf-8")
    named_in_model = set(re.findall(r"(?:#ifn?def |defined\()([A-Z_]+)", text))
    assert named_in_model - SETTINGS == set(MUTANTS)
