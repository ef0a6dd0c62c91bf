"""A fault that `check` and a rehearsal name: one shape for whatever looks for faults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and the edit or the command that mends it."""

    why: str
    fix: str
