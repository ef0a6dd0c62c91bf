"""A node gives up what it acknowledges before it answers that it knows a later term; only then another may lead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cluster.nodes import standby
from tests.unit.cluster.world import World, at_work, hands, make_cluster

from pgpool_cluster.decision.actions import Follow
from pgpool_cluster.decision.facts.facts import Lsn, Postgresql
from pgpool_cluster.decision.promotion import able_to_acknowledge
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import postgresql_service
from pgpool_cluster.operations.succession import claims, cutting, new_primary
from pgpool_cluster.postgresql import postmaster
from pgpool_cluster.transport.protocol import TermAnswer, TermRequest

FIVE = make_cluster(Mode.STREAMING_REPLICATION, 5)


@pytest.fixture
def world() -> Iterator[World]:
    """A healthy cluster of three, whose primary is pg1."""
    with hands(), at_work(World.healthy(make_cluster(Mode.STREAMING_REPLICATION, 3))) as found:
        yield found


def ask(world: World, name: str, term: int, *, cut: bool = True) -> TermAnswer:
    return world.on(name, TermRequest(term, world.cluster.fingerprint, cut=cut), "pg3")


def follows(world: World, name: str) -> str | None:
    data = world.hosts[name].data
    assert data is not None
    return data.follows


def here(world: World, name: str) -> Here:
    found = world.hosts[name].here
    assert found is not None
    return found


# Before the answer


def test_a_standby_leaves_its_primary_before_it_answers(world: World) -> None:
    world.write()
    answer = ask(world, "pg2", 2)
    assert (answer.taken, answer.cut, answer.position) == (True, True, world.facts("pg2").position)
    assert follows(world, "pg2") is None
    world.write(lambda name: name == "pg2")
    assert 2 not in world.acknowledged, "pg2 no longer receives from pg1"


def test_a_primary_is_killed_before_it_answers(world: World) -> None:
    answer = ask(world, "pg1", 2)
    assert (answer.taken, answer.cut, answer.position) == (True, True, None)
    assert not world.hosts["pg1"].up


def test_a_term_that_is_known_already_changes_nothing(world: World) -> None:
    here(world, "pg2").note_term(2)
    here(world, "pg1").note_term(2)
    for name in ("pg1", "pg2"):
        assert ask(world, name, 2) == TermAnswer(taken=False, excuse=(0, 0), cut=False)
    assert world.hosts["pg1"].up
    assert follows(world, "pg2") == "pg1"


def test_a_term_without_a_promotion_cuts_nothing(world: World) -> None:
    assert ask(world, "pg2", 2, cut=False).cut is None
    assert follows(world, "pg2") == "pg1"


def test_a_node_with_another_cluster_yml_gives_up_nothing(world: World) -> None:
    assert not world.on("pg1", TermRequest(2, "other", cut=True), "pg3").taken
    assert world.hosts["pg1"].up


def test_a_standby_that_is_down_votes_but_may_receive_again_later(world: World) -> None:
    world.hosts["pg2"].up = False
    answer = ask(world, "pg2", 2)
    assert (answer.taken, answer.cut) == (True, False)


def test_a_standby_whose_walreceiver_does_not_end_is_not_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    query = world.query

    def running(here: Here, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return [(True, 1)] if "walreceiver" in sql else query(here, sql, *values)

    monkeypatch.setattr(world, "query", running)
    answer = ask(world, "pg2", 2)
    assert (answer.taken, answer.cut) == (True, False)


def test_a_primary_that_cannot_be_killed_has_given_up_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postmaster, "kill", lambda _: False)
    answer = ask(world, "pg1", 2)
    assert (answer.taken, answer.cut) == (True, False)


def test_a_node_that_is_becoming_a_primary_has_given_up_nothing(world: World) -> None:
    """Its server may be about to start in the term that it has claimed."""
    pg2 = here(world, "pg2")
    with world.within("pg2"), pg2.under_way.promotion():
        assert cutting.give_up(pg2) is None


def test_a_node_that_begins_to_become_a_primary_meanwhile_has_given_up_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "give_up", lambda node: node.look())
    with here(world, "pg2").under_way.promotion():
        answer = ask(world, "pg2", 2)
    assert (answer.taken, answer.cut) == (True, False)


def test_a_server_that_systemd_is_starting_has_given_up_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have asked for permission before the term."""
    pg1 = here(world, "pg1")
    starting = replace(pg1.look(), postgresql=Postgresql.STARTING)
    monkeypatch.setattr(postmaster, "runs", lambda _: False)
    monkeypatch.setattr(type(pg1), "look", lambda _: starting)
    answer = ask(world, "pg1", 2)
    assert (answer.taken, answer.cut) == (True, False)


# After it


def test_a_claim_takes_no_effect_once_a_later_term_has_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later term arrives after the votes."""
    pg2 = here(world, "pg2")
    monkeypatch.setattr(claims, "_void_excuses", lambda node, *_: node.note_term(3))
    with world.within("pg2"), pytest.raises(OperationError, match="term 3 began during the claim of term 2"):
        new_primary.become_primary(pg2, 2)
    assert (pg2.record.term, pg2.record.led) == (3, 0)
    assert pg2.look().standby


def test_a_server_that_a_later_term_overtakes_while_it_starts_is_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg2 = here(world, "pg2")
    end_recovery = new_primary.end_recovery

    def slowly(node: Here) -> None:
        end_recovery(node)
        node.note_term(3)

    monkeypatch.setattr(new_primary, "end_recovery", slowly)
    world.cut(["pg1"])
    with world.within("pg2"), pytest.raises(OperationError, match="term 3 began while this node became the primary"):
        new_primary.become_primary(pg2, 2)
    assert not world.hosts["pg2"].up


def test_a_standby_does_not_follow_a_primary_of_an_earlier_term_again(world: World) -> None:
    """The decision may be from the moment before the cut."""
    ask(world, "pg2", 2)
    with world.within("pg2"), pytest.raises(OperationError, match="leads in term 1, but term 2 has begun"):
        postgresql_service.follow(here(world, "pg2"), Follow("pg2", "pg1", 1))
    assert follows(world, "pg2") is None


def test_the_standbys_of_a_former_primary_follow_the_new_one(world: World) -> None:
    world.cut(["pg1"])
    with world.within("pg2"):
        new_primary.become_primary(here(world, "pg2"), 2)
    assert follows(world, "pg3") is None
    world.step("pg3")
    assert follows(world, "pg3") == "pg2"


def test_a_standby_with_less_than_another_one_does_not_lead(world: World) -> None:
    world.write(lambda name: name == "pg3")
    world.hosts["pg2"].slow = True
    world.write(lambda name: name == "pg3")
    world.cut(["pg1"])
    with world.within("pg2"), pytest.raises(OperationError, match="pg3 received more WAL than this node"):
        new_primary.become_primary(here(world, "pg2"), 2)
    assert here(world, "pg2").record.led == 0


def keep_off(world: World, name: str, **changes: object) -> None:
    """Exclude a node from promotion in the cluster.yml of every node."""
    nodes = tuple(replace(one, nofailover=one.name == name) for one in world.cluster.nodes)
    cluster = replace(world.cluster, nodes=nodes, **changes)  # type: ignore[arg-type]
    for each in world.hosts:
        found = here(world, each)
        found.cluster, found.me = cluster, cluster.named(each)


@pytest.mark.parametrize("synchronous", [0, 1])
def test_a_standby_that_is_never_promoted_may_have_received_more_if_no_commit_waits_for_it(
    world: World, synchronous: int
) -> None:
    keep_off(world, "pg3", synchronous=synchronous)
    world.promised = synchronous > 0
    world.write(lambda name: name == "pg3")
    world.hosts["pg2"].slow = True
    world.write(lambda name: name == "pg3")
    world.cut(["pg1"])
    outcome = pytest.raises(OperationError, match="pg3 received more WAL") if synchronous else nullcontext()
    with world.within("pg2"), outcome:
        new_primary.become_primary(here(world, "pg2"), 2)
    assert here(world, "pg2").record.led == (0 if synchronous else 2)


def test_a_node_with_nofailover_promotes_itself_only_if_an_administrator_accepts_a_loss(world: World) -> None:
    """The request may come from a node with another cluster.yml."""
    keep_off(world, "pg2")
    world.cut(["pg1"])
    with world.within("pg2"):
        with pytest.raises(OperationError, match="pg2 is never promoted"):
            new_primary.become_primary(here(world, "pg2"), 2)
        assert here(world, "pg2").record.term == 1
        new_primary.become_primary(here(world, "pg2"), 2, loss=True)
    assert here(world, "pg2").record.led == 2


@pytest.mark.parametrize("accept_loss", [False, True])
def test_no_node_leads_while_others_may_acknowledge_unless_an_administrator_accepts_that(
    world: World, monkeypatch: pytest.MonkeyPatch, *, accept_loss: bool
) -> None:
    """pg1 and pg3 have recorded the term, but do not say that they have given anything up."""
    monkeypatch.setattr(cutting, "give_up", lambda _: None)
    mine = replace(standby("pg2", "pg1"), position=Lsn(10**6))
    pg2 = here(world, "pg2")
    with world.within("pg2"):
        if accept_loss:
            claims.claim_promotion(pg2, 2, mine, loss=True)
        else:
            with pytest.raises(OperationError, match="pg1, pg3 may still acknowledge commits to a former primary"):
                claims.claim_promotion(pg2, 2, mine)
    assert pg2.record.led == (2 if accept_loss else 0)


# The rule


@pytest.mark.parametrize(
    ("synchronous", "cut", "excused", "able"),
    [
        (1, ("pg2", "pg3", "pg4", "pg5"), (), ()),
        (1, ("pg2", "pg3", "pg4"), (), ("pg1", "pg5")),
        (1, ("pg2", "pg3", "pg4"), ("pg5",), ()),
        (2, ("pg2", "pg3", "pg4"), (), ()),
        (2, ("pg2", "pg3"), (), ("pg1", "pg4", "pg5")),
        (2, ("pg2", "pg3"), ("pg4",), ()),
        (0, ("pg2",), (), ()),
    ],
)  # fmt: skip
def test_a_former_primary_needs_as_many_standbys_as_synchronous_says(
    synchronous: int, cut: tuple[str, ...], excused: tuple[str, ...], able: tuple[str, ...]
) -> None:
    assert able_to_acknowledge(replace(FIVE, synchronous=synchronous), cut, excused) == able
