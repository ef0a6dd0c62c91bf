"""Which terms are believed: a node that tells an absurd one must not drive the number out of the others' reach.

A promotion takes seconds, so an honest cluster's term grows by less than one a second from 1 on. A node that was
away for long meets a much higher one than its own, and no other node may be left to vouch for it. So what a node
knows is no measure, and the time is: a million, and one more for each second since 2026. A node that lies up to that
bound costs the next promotion a second, since the bound has moved by then. A clock that is far behind still lets a
million through.
"""

from __future__ import annotations

import time
from typing import Annotated

from .errors import UsageError

_ALWAYS = 1_000_000
_SINCE = 1_767_225_600
"""2026-01-01 00:00 UTC."""


def highest() -> int:
    """Return the highest term that is believed at this moment."""
    return _ALWAYS + max(0, int(time.time()) - _SINCE)


def plausible(term: object) -> bool:
    """Tell whether `term` is a number that a cluster can have come to, 0 included: no term yet."""
    return type(term) is int and 0 <= term <= highest()


def checked(term: object) -> int:
    """Return a term that another node tells; raises UsageError for what is none."""
    if type(term) is int and 0 < term <= highest():
        return term
    shown = str(term)[:30] if isinstance(term, str | float) or (type(term) is int and abs(term) < 10**20) else "that"
    raise UsageError(f"no cluster can have come to the term {shown}", hint="pgpoolctl check compares the nodes' clocks")


def known(term: object) -> int:
    """Return a term that another node tells, or 0 for none; raises UsageError for anything else."""
    return 0 if type(term) is int and term == 0 else checked(term)


Term = Annotated[int, checked]
"""A term that comes from another node."""
KnownTerm = Annotated[int, known]
"""Such a term, or 0."""
