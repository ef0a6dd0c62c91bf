"""Two promotions may give different timelines the same number; a standby of the one does not follow the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cluster.nodes import FORK, primary, seen, standby
from tests.unit.cluster.world import World, at_work, hands, make_cluster

from pgpool_cluster.copying import copying
from pgpool_cluster.decision.facts.divergence import Stretch, own_stretches
from pgpool_cluster.decision.facts.facts import Lsn, NodeFacts, Origin, contains, same_timeline
from pgpool_cluster.decision.facts.pause import NO_PAUSE
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import timelines
from pgpool_cluster.operations.succession import new_primary
from pgpool_cluster.transport import wire

FIRST = Origin(1, 1)
BEFORE, LATER = (FIRST, Origin(2, 2)), (FIRST, Origin(2, 3))


@pytest.fixture
def world() -> Iterator[World]:
    """A healthy cluster of three, whose primary is pg1."""
    with hands(), at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))) as found:
        yield found


def here(world: World, name: str) -> Here:
    found = world.hosts[name].here
    assert found is not None
    return found


def tend(world: World, name: str) -> tuple[Origin, ...]:
    with world.within(name):
        timelines.tend(here(world, name), here(world, name).look_at_all())
    return here(world, name).record.origins


def facts(origins: tuple[Origin, ...], *, timeline: int = 2, at: int = 2000) -> NodeFacts:
    return replace(primary("pg2", term=3, timeline=timeline, at=at), origins=origins)


# The rule


@pytest.mark.parametrize(
    ("theirs", "mine", "fits"),
    [
        (LATER, LATER, True),
        pytest.param(LATER, BEFORE, False, id="the same number and history, but other WAL"),
        pytest.param((FIRST,), BEFORE, None, id="the primary has not recorded its new timeline yet"),
        pytest.param((), BEFORE, True, id="the primary has an older package"),
        pytest.param(LATER, (), True, id="the standby has an older package"),
        pytest.param(LATER, (FIRST,), True, id="the standby does not know"),
        pytest.param((Origin(2, 2),), BEFORE, True, id="the primary does not know an earlier one"),
    ],
)
def test_a_standby_fits_only_the_timeline_that_it_has_received(
    theirs: tuple[Origin, ...], mine: tuple[Origin, ...], *, fits: bool | None
) -> None:
    target = replace(standby("pg3", "pg1", timeline=2, at=1500), origins=mine)
    assert contains(facts(theirs), target) is fits


def test_a_primary_without_any_origin_yet_is_not_compared_by_number() -> None:
    """Its package records origins, as its facts about pauses show: it has just been promoted."""
    target = replace(standby("pg3", "pg1", timeline=2, at=1500), origins=BEFORE)
    assert contains(replace(facts(()), pause=NO_PAUSE), target) is None
    assert contains(replace(facts((FIRST,)), pause=NO_PAUSE), replace(target, origins=())) is True


def test_an_expected_timeline_does_not_matter_before_it_is_received() -> None:
    target = replace(standby("pg3", "pg1", timeline=1, at=1000), origins=BEFORE)
    assert contains(facts(LATER), target)
    assert same_timeline(facts(LATER), 2, BEFORE) is False


def test_all_wal_of_the_other_timeline_is_kept() -> None:
    """By the numbers, only the WAL after the primary's position would be."""
    assert own_stretches(facts(LATER), 2, FORK, BEFORE) == (Stretch(2, FORK[0].lsn),)
    assert own_stretches(facts(LATER), 2, FORK) == (Stretch(2, Lsn(2000)),)


def test_facts_with_origins_survive_the_wire() -> None:
    assert wire.read(NodeFacts, wire.fields(facts(LATER)), "facts") == facts(LATER)
    with pytest.raises(ValueError, match="origins: no cluster can have reached such a number"):
        wire.read(NodeFacts, wire.fields(facts((Origin(2, 10**12),))), "facts")


# The record


def test_a_record_with_origins_survives_a_restart(tmp_path: Path) -> None:
    Record(term=3, origins=LATER).save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json").origins == LATER


def test_the_primary_records_its_timeline_once_and_a_standby_adopts_that(world: World) -> None:
    assert tend(world, "pg2") == ()
    assert tend(world, "pg1") == (FIRST,)
    assert tend(world, "pg2") == (FIRST,)
    here(world, "pg1").remember(led=5)
    assert tend(world, "pg1") == (FIRST,)


def test_a_promotion_begins_a_timeline_of_its_own(world: World) -> None:
    """pg2 has followed a primary whose timeline 2 it never received."""
    here(world, "pg2").remember(origins=BEFORE)
    world.cut(["pg1"])
    with world.within("pg2"):
        new_primary.become_primary(here(world, "pg2"), 3)
    assert here(world, "pg2").record.origins == LATER


def test_a_standby_knows_the_origin_before_the_first_wal_arrives(world: World) -> None:
    pg3 = here(world, "pg3")
    timelines.expect(pg3, facts(BEFORE))
    assert pg3.record.origins == BEFORE
    timelines.expect(pg3, facts(LATER))
    assert pg3.record.origins == BEFORE, "it may have received that WAL in the meantime"


def test_pg_rewind_is_not_used_between_timelines_of_the_same_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would find nothing to do."""
    pg3, done = here(world, "pg3"), list[str]()
    monkeypatch.setattr(copying, "_rewindable", lambda _: True)
    monkeypatch.setattr(copying._Copy, "rewind", lambda _: done.append("rewind"))
    monkeypatch.setattr(copying._Copy, "clone", lambda _: done.append("clone"))
    for origins in (BEFORE, LATER):
        pg3.remember(origins=origins)
        pg3.seen.publish(seen(facts(LATER)))
        copying.rejoin(pg3, "pg2", lambda _: None)
    assert done == ["clone", "rewind"]
