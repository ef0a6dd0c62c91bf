"""Simulated clusters under random faults lose no acknowledged write, and become healthy again.

`--schedules N` runs N schedules instead of 20,000; `--first-seed N` begins with another seed. A failure prints a line
with `--schedule`, which repeats the run.
"""

from __future__ import annotations

import pytest
from tests.unit.cluster.simulator import batch, schedules
from tests.unit.cluster.simulator.hosts import Allowed
from tests.unit.cluster.simulator.machine import machine
from tests.unit.cluster.simulator.schedules import Schedule


def test_no_schedule_breaks_an_invariant(request: pytest.FixtureRequest) -> None:
    allowed, text = Allowed(), request.config.getoption("--schedule")
    if text:
        with machine():
            assert not schedules.problem(Schedule.parse(text), allowed)
        return
    first, count = request.config.getoption("--first-seed"), request.config.getoption("--schedules")
    broken = batch.run_all(first, count, allowed)
    shown = "\n".join(map(str, broken))
    assert not broken, f"{shown}\nshortened: {batch.shortened(broken[0], allowed)}"
