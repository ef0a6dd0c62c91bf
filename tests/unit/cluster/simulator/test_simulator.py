"""The simulator finds what it should, repeats itself, and finds nothing in the package within a few seconds.

The level `simulation` runs many more schedules.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from tests.unit.cluster.simulator import batch, schedules
from tests.unit.cluster.simulator.beats import Heard
from tests.unit.cluster.simulator.hosts import Allowed, Host, World
from tests.unit.cluster.simulator.machine import at_work, machine
from tests.unit.cluster.simulator.schedules import SHAPES, Fault, Schedule

from pgpool_cluster.agent import agent
from pgpool_cluster.copying import keeping
from pgpool_cluster.decision import fencing, promotion
from pgpool_cluster.decision.decide import decide
from pgpool_cluster.decision.facts import facts
from pgpool_cluster.decision.facts.facts import BackendState
from pgpool_cluster.decision.liveness.links import BEAT_SECONDS, Links
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.operations.succession import claims, cutting

UP, DOWN = BackendState.UP, BackendState.DOWN
PAIRS = tuple(itertools.permutations("abc", 2))


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


# The model of heartbeats


def test_the_simulated_heartbeats_find_the_same_links_as_real_ones() -> None:
    """Agents that restart, and links that work in one direction, with real `Links` beside the model."""
    chance, now = random.Random(1), 100.0
    real = {name: _links(name, number, now) for number, name in enumerate("abc")}
    began = dict.fromkeys("abc", now)
    model = {pair: Heard(now) for pair in PAIRS}
    blocked: set[tuple[str, str]] = set()
    for step in range(3000):
        now += BEAT_SECONDS
        if chance.random() < 0.1:
            blocked ^= {chance.choice(PAIRS)}
        if chance.random() < 0.01:
            name = chance.choice("abc")
            real[name], began[name] = _links(name, 10 + step, now), now
            model |= {pair: Heard(now) for pair in PAIRS if pair[0] == name}
        beats = {(beat.sender, beat.receiver): beat for name in "abc" for beat in real[name].round(None, now)}
        echoes = {(sender, receiver): model[sender, receiver].arrived for sender, receiver in PAIRS}
        for sender, receiver in PAIRS:
            if (sender, receiver) not in blocked:
                real[receiver].receive(beats[sender, receiver], now)
                began_both = began[receiver], began[sender]
                model[receiver, sender].receive(now, echoes[sender, receiver], began_both, now)
        for receiver, sender in PAIRS:
            found = real[receiver].of(sender, now)
            assert model[receiver, sender].link(sender, now) == found, step


def _links(name: str, incarnation: int, now: float) -> Links:
    return Links(name, [other for other in "abc" if other != name], incarnation, now)


# The model of pgpool-II


def test_a_pgpool_changes_its_view_only_by_commands() -> None:
    """It searches at its start, and when a node is attached while it knows no primary."""
    world = World(schedules.cluster_of("3s0"), 1, Allowed())
    host = world.hosts["pg1"]
    with at_work(world):
        world.begin()
        world.end_agent(host)
        world.pools.pcp(host, "detach", "pg1")
        assert _pool_after(world, host, 5.0) == (None, {"pg1": DOWN, "pg2": UP, "pg3": UP})
        world.pools.end(host)
        world.pools.start(host)
        assert _pool_after(world, host, 5.0) == (None, {"pg1": DOWN, "pg2": UP, "pg3": UP})
        world.pools.pcp(host, "attach", "pg1")
        assert _pool_after(world, host, 1.0) == ("pg1", dict.fromkeys(world.hosts, UP))
        world.pools.pcp(host, "redirect", "pg2")
        assert _pool_after(world, host, 1.0) == ("pg2", {"pg1": DOWN, "pg2": UP, "pg3": DOWN})
        with pytest.raises(OperationError):
            world.pools.pcp(host, "redirect", "pg3")


def _pool_after(world: World, host: Host, seconds: float) -> tuple[str | None, dict[str, BackendState]]:
    world.kernel.run(world.kernel.now + seconds)
    found = world.pools.facts(host)
    assert found is not None
    return found.primary, dict(found.backends)


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
        # Two promotions began different timelines with the same number, and a standby of the one followed the other.
        "4ws0 1908 stop-server:2:-1:27:3 return-at-save:3.77:1:22:0.8 crash:6.61:-1:2:3.7 crash:6.89:3:6:2.6",
        # Such a standby was pointed at the other primary by a decision from before it had received its WAL.
        "4ws0 3612 return-at-save:2.31:0:4:15.4 kill-pool:2.35:0:2:19.7 pause-at-save:2.85:-1:23:4.5"
        " pause-host:4.24:-1:3:2.1 stop-server:4.24:2:22:0.6",
        # A replaced primary went on with a witness that knew of the later term, while its successor was lost.
        "2ws0 3933 pause-host:3.5:-1:5:4 lose-pair:3:0:3:19",
        # A node started in a term that it had claimed, after it had answered that it knew a later one.
        "3s2 1221 slow-disks:4.35:-1:4:5.2 lose-pair:27.75:1:5:4.9 lose-pair:27.75:-1:7:9.8 lose-pair:27.75:2:3:0.6"
        " pause-at-save:29.46:-1:2:32.2",
    ],
)
def test_a_mended_fault_stays_mended(found: str) -> None:
    assert not schedules.problem(Schedule.parse(found))


def test_a_known_limit_is_reported_without_its_switch() -> None:
    """The agent of a primary starts after the host was cut off, so it has never heard the others."""
    schedule = Schedule.parse("4ws0 3625 partition:4:1:14:21 kill-agent:4:-1:1:0.1")
    assert not schedules.problem(schedule)
    assert "acknowledges a write after" in schedules.problem(schedule, Allowed(unheard=False))


def test_a_primary_that_a_signal_has_stopped_is_replaced() -> None:
    """Its agent reports that it hangs, and a majority cannot log in."""
    hanging = schedules.run(Schedule.parse("3s1 3 pause-server:2:0:1:12"))
    assert hanging.newest is not None
    assert hanging.newest.name != "pg1"
    short = schedules.run(Schedule.parse("3s1 3 pause-server:2:0:1:2.5"))
    assert short.newest is short.hosts["pg1"]


# Faults that are put into the package, which the simulator must notice


def test_a_standby_without_an_acknowledged_write_must_not_be_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only standby with the last writes is lost together with the primary. Decision and claim both refuse then."""
    schedule = Schedule.parse("4ws1 1 slow-wal:2:2:1:60 slow-wal:2:3:1:60 crash:8:1:1:60 crash:8:-1:1:60")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(promotion, "_missing_standbys", lambda *_: [])
    monkeypatch.setattr(claims, "able_to_acknowledge", lambda *_: ())
    monkeypatch.setattr(agent, "decide", decide)  # the simulator remembers decisions
    assert "without the acknowledged writes" in schedules.problem(schedule)


def test_a_standby_that_does_not_leave_its_primary_acknowledges_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host of the primary is suspended and replaced, and goes on before the other standby follows the new one."""
    schedule = Schedule.parse("3s1 6219 pause-host:4:-1:1:2.57 delay:3.5:2:0:5")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(cutting, "cut_off", lambda here: here.look())
    assert "acknowledges a write after" in schedules.problem(schedule)


def test_timelines_with_the_same_number_must_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg2 takes over while pg3 and pg4 are cut off. Once pg2 and its standby are lost, pg3 begins timeline 2, too."""
    schedule = Schedule.parse("4ws0 1 stop-server:2:0:1:2 partition:2.05:0:12:7 crash:8.5:1:1:40 crash:8.5:0:1:12")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(facts, "same_timeline", lambda *_: True)
    monkeypatch.setattr(agent, "decide", decide)  # the simulator remembers decisions
    assert "streams on from a server whose earlier WAL is different" in schedules.problem(schedule)


def test_a_primary_that_is_cut_off_must_be_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule.parse("3s0 1 partition:4:0:1:30")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(fencing, "FENCE_SECONDS", 1000.0)
    monkeypatch.setattr(agent, "decide", decide)  # the simulator remembers decisions
    assert "pg1 acknowledges a write after" in schedules.problem(schedule)


def test_wal_that_only_a_returning_node_has_must_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule.parse("3s0 6 pause-host:2:0:1:1.4")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(keeping, "keep", lambda *_: "")
    assert "nor kept" in schedules.problem(schedule)


def test_a_record_that_was_not_synced_is_lost_with_the_power(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule.parse("3s0 1 stop-server:2:-1:1:60 crash:12:1:1:2 crash:12:2:1:2")
    assert not schedules.problem(schedule)
    monkeypatch.setattr(World, "saves_durably", False)
    assert schedules.problem(schedule)
