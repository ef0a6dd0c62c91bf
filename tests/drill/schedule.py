"""Schedules of faults: which faults a drill injects, where and when, as a pure function of its seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ROLES = ("primary", "standby 1", "standby 2")
"""The places of faults: the roles at the beginning of a run. In native replication, the primary is the first node."""
BRIEFEST, LONGEST = 2.0, 20.0
"""Seconds for which a fault lasts."""
CALM_SECONDS = 2.0
"""The time without a fault at the beginning of a run."""
_PAIRS = 0.5
"""The share of runs with two faults at a time."""


@dataclass(frozen=True, slots=True)
class Step:
    """A fault on one node, from `at` to `until`, in seconds since the beginning of the workload."""

    fault: str
    role: str
    at: float
    until: float

    def __str__(self) -> str:
        return f"{self.at:4.1f} s to {self.until:4.1f} s: {self.fault} on {self.role}"


@dataclass(frozen=True, slots=True)
class Event:
    """The beginning or the end of a step."""

    at: float
    begins: bool
    step: Step


def draw(seed: int, faults: Sequence[str]) -> tuple[Step, ...]:
    """Return one fault, or two that overlap on different nodes; the same for the same seed and faults.

    Raises ValueError if there are no faults to draw from.
    """
    if not faults:
        raise ValueError("a schedule needs at least one fault")
    dice = random.Random(seed)
    roles = dice.sample(ROLES, 2 if dice.random() < _PAIRS else 1)
    steps: list[Step] = []
    for role in roles:
        at = CALM_SECONDS if not steps else dice.uniform(steps[0].at, steps[0].until)
        lasts = dice.uniform(BRIEFEST, LONGEST)
        steps.append(Step(dice.choice(faults), role, round(at, 1), round(at + lasts, 1)))
    return tuple(steps)


def events(steps: Sequence[Step]) -> tuple[Event, ...]:
    """Return the beginnings and ends of steps in the order of time."""
    found = [Event(step.at, True, step) for step in steps] + [Event(step.until, False, step) for step in steps]
    return tuple(sorted(found, key=lambda event: event.at))
