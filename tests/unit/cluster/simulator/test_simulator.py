"""The simulator finds what it should, repeats itself, and finds nothing in the package within a few seconds.

The level `simulation` runs many more schedules.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.cluster.simulator import batch, schedules
from tests.unit.cluster.simulator.hosts import Allowed, World
from tests.unit.cluster.simulator.machine import machine
from tests.unit.cluster.simulator.schedules import SHAPES, Fault, Schedule

from pgpool_cluster.decision import promotion

STRICT = Allowed(overtaken=False)


@pytest.fixture(scope="module", autouse=True)
def _machine() -> Iterator[None]:
    with machine():
        yield


def test_the_first_schedules_break_no_invariant() -> None:
    broken = batch.run_part(0, 150, Allowed())
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_primary_that_is_lost_is_replaced_in_every_shape(shape: str) -> None:
    world = schedules.run(Schedule(shape, 7, (Fault("crash", 2.0, schedules.PRIMARY, 1, 30.0),)))
    assert world.newest is not None
    assert world.newest.name != "pg1"
    assert len(world.acknowledged) > 20


def test_a_schedule_repeats_itself() -> None:
    schedule = schedules.draw(11)
    one, other = schedules.run(schedule), schedules.run(Schedule.parse(str(schedule)))
    assert one.shown() == other.shown()
    assert (one.kernel.events, one.acknowledged) == (other.kernel.events, other.acknowledged)


def test_a_seed_alone_names_its_schedule() -> None:
    schedule = schedules.draw(12)
    assert Schedule.parse(f"{schedule.shape} 12") == schedule


# Faults of the package that the simulator has found


@pytest.mark.parametrize(
    "found",
    [
        # Another node was promoted between the claim of a booting primary and the start of its server.
        "3s2 828 delay:2:2:2:42.6 double:2:-1:5:5.2 reboot:2.37:-1:4:3.7",
        # An agent that had been suspended acted on facts from before, when the primary was away.
        "3s0 9701 pause-agent:3.49:1:4:19 crash:3:-1:1:0.4",
        # A standby was promoted in place of another standby, because the agent of the primary answered late.
        "4ws0 11808 stop-server:3.72:-1:30:0.3 delay:17:-1:5:14 crash:18:2:3:0.1",
    ],
)
def test_a_mended_fault_stays_mended(found: str) -> None:
    assert not schedules.problem(Schedule.parse(found), STRICT)


# Faults that are put into the package, which the simulator must notice


def test_a_standby_without_an_acknowledged_write_must_not_be_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only standby with the last writes is lost together with the primary."""
    schedule = Schedule.parse("4ws1 1 slow-wal:2:2:1:60 slow-wal:2:3:1:60 crash:8:1:1:60 crash:8:-1:1:60")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(promotion, "_missing_standbys", lambda *_: [])
    assert "without the acknowledged writes" in schedules.problem(schedule)


def test_a_record_that_was_not_synced_is_lost_with_the_power(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule.parse("3s0 1 stop-server:2:-1:1:60 crash:12:1:1:2 crash:12:2:1:2")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(World, "saves_durably", False)
    assert schedules.problem(schedule)
