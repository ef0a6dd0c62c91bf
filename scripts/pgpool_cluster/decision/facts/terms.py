"""Limit terms to plausible values, so that a faulty node cannot exhaust the numbers for all others.

A promotion takes seconds, so an honest cluster's term grows from 1 by less than one per second. A node that was down
for long may receive a much higher term than its own, with no other node to confirm it. So the limit depends on the
time, not on a node's own term: one million, plus one for each second since 2026. A node that claims the highest allowed
term delays the next promotion by one second, because the limit has risen by then. With a clock that is far behind,
terms up to one million are still accepted.
"""

from __future__ import annotations

import time
from typing import Annotated

from ...ground.errors import UsageError

_BASE_TERM = 1_000_000
_BASE_SECONDS = 1_767_225_600
"""2026-01-01 00:00 UTC, in seconds since the epoch."""


def highest() -> int:
    """Return the highest term that is plausible now."""
    return _BASE_TERM + max(0, int(time.time()) - _BASE_SECONDS)


def plausible(term: object) -> bool:
    """Return whether `term` is a number that a cluster can have reached; 0 means that there is no term yet."""
    return type(term) is int and 0 <= term <= highest()


def checked(term: object) -> int:
    """Return a term received from another node; raises UsageError if it is not a plausible term."""
    if type(term) is int and 0 < term <= highest():
        return term
    shown = str(term)[:30] if isinstance(term, str | float) or (type(term) is int and abs(term) < 10**20) else "that"
    raise UsageError(f"no cluster can have reached term {shown}", hint="pgpoolctl check compares the nodes' clocks")


def known(term: object) -> int:
    """Return a term received from another node, or 0 for none; raises UsageError for anything else."""
    return 0 if type(term) is int and term == 0 else checked(term)


Term = Annotated[int, checked]
"""A term received from another node."""
KnownTerm = Annotated[int, known]
"""A term received from another node, or 0 for none."""
