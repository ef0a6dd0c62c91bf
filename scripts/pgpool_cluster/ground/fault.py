"""A fault as `check` and a rehearsal report it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """A description of what is wrong, and the edit or command that fixes it."""

    why: str
    fix: str
