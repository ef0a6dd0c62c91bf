"""Run many schedules, on several processes, and report those that break an invariant."""

from __future__ import annotations

import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.unit.cluster.simulator import schedules
from tests.unit.cluster.simulator.hosts import Allowed
from tests.unit.cluster.simulator.machine import machine
from tests.unit.cluster.simulator.schedules import Schedule

_PART = 250
"""How many schedules run before memory is collected."""
_MOST_REPORTED = 5


@dataclass(frozen=True)
class Broken:
    """A schedule that breaks an invariant."""

    schedule: Schedule
    problem: str

    def __str__(self) -> str:
        return f"{self.problem}\n  replay: .venv/bin/python -m pytest tests/simulation --schedule '{self.schedule}'"


def run_part(first: int, count: int, allowed: Allowed) -> list[Broken]:
    """Run the schedules of `count` seeds from `first` on, in this process, and return those that break an invariant."""
    was_on = gc.isenabled()
    gc.disable()  # the worlds of a part take less memory than the collector takes time
    try:
        with machine():
            drawn = (schedules.draw(seed) for seed in range(first, first + count))
            return [Broken(one, why) for one in drawn if (why := schedules.problem(one, allowed))]
    finally:
        if was_on:
            gc.enable()
        gc.collect()


def run_all(first: int, count: int, allowed: Allowed) -> list[Broken]:
    """Run the schedules of `count` seeds on all cores; stop after some have broken an invariant."""
    parts = [(start, min(_PART, first + count - start)) for start in range(first, first + count, _PART)]
    found: list[Broken] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        try:
            for broken in pool.map(run_part, *zip(*parts, strict=True), [allowed] * len(parts)):
                found += broken
                if len(found) >= _MOST_REPORTED:
                    break
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def shortened(broken: Broken, allowed: Allowed) -> Broken:
    """Return a shorter schedule with the same problem."""
    with machine():
        schedule = schedules.shortest(broken.schedule, allowed)
        return Broken(schedule, schedules.problem(schedule, allowed))
