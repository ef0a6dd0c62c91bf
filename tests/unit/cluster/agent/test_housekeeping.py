"""A failed chore stops neither another chore nor a decision (finding D1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import CLUSTER, away, orphaned, pgpool, primary, seen, standby

from pgpool_cluster.agent import agent, housekeeping
from pgpool_cluster.decision.actions import Action, said
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster import Cluster, Node
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import pgpool as pgpool_module
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations import act
from pgpool_cluster.transport.peers import Peers

LOST = seen(
    away("pg1"),
    replace(orphaned(standby("pg2", "pg1", at=1100)), pgpool=pgpool("pg1")),
    orphaned(standby("pg3", "pg1")),
)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the actions of pg2's agent if pg1 is lost and ending sessions with it fails."""
    done: list[str] = []

    def hang_up(_: Cluster, node: Node) -> None:
        done.append(f"hang up on {node.name}")
        raise OperationError(f"hang-up {node.address}: an inet prefix is expected", hint="ss")

    def perform(_: Here, action: Action) -> None:
        done.append(said(action))

    monkeypatch.setattr(units, "hang_up", hang_up)
    monkeypatch.setattr(act, "perform", perform)
    monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: LOST)
    monkeypatch.setattr(Here, "look", lambda _: LOST.of("pg2"))
    monkeypatch.setattr(pgpool_module, "of_another_key", lambda _: False)
    monkeypatch.setattr(agent, "notify", lambda _: None)
    return done


@pytest.fixture
def pg2(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(paths, "USERS", paths.STATE / "nowhere")
    monkeypatch.setattr(housekeeping.Housekeeping, "_keep_rules", lambda *_: None)  # covered by test_firewall.py
    return Here(CLUSTER, CLUSTER.named("pg2"), None, Peers({}), Record(system=7000, term=1))


def test_the_agent_decides_although_sessions_cannot_be_ended(pg2: Here, done: list[str]) -> None:
    program = agent.Agent(pg2)
    program.step()
    program.step()
    assert done.count("promote pg2 term 2") == 2
    assert done.count("hang up on pg1") == 1
    program.step()
    assert "cannot" not in pg2.chores.value


def test_a_primary_that_was_just_there_may_be_restarting_its_agent(
    pg2: Here, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = agent.Agent(pg2)
    there = seen(primary("pg1"), replace(standby("pg2", "pg1"), pgpool=pgpool("pg1")), standby("pg3", "pg1"))
    monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: there)
    program.step()
    done.clear()
    monkeypatch.setattr(Here, "look_at_all", lambda *_, **__: LOST)
    program.step()
    assert not [word for word in done if "promote" in word]
    monkeypatch.setattr(agent, "LATELY_SECONDS", 0.0)
    program.step()
    assert "promote pg2 term 2" in done


def test_pgpool_gets_one_attach_request_and_the_next_only_later(
    pg2: Here, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It queues requests while it searches for a primary: ten used to take effect when the node was down again."""
    program = agent.Agent(pg2)
    followed = replace(standby("pg2", "pg1"), pgpool=pgpool("pg3"))
    there = seen(primary("pg1"), followed, standby("pg3", "pg1"))
    believed = seen(primary("pg1"), replace(followed, pgpool=pgpool()), standby("pg3", "pg1"))
    for facts in (there, there, believed, there):
        monkeypatch.setattr(Here, "look_at_all", lambda *_, facts=facts, **__: facts)
        program.step()
    assert done.count("attach pg3") == 2, "once, and once more after it was believed up in between"
    monkeypatch.setattr(agent, "TOLD_SECONDS", 0.0)
    program.step()
    assert done.count("attach pg3") == 3


def test_each_chore_fails_alone_and_is_reported(pg2: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    tidy = housekeeping.Housekeeping(pg2, agent.Agent(pg2)._vigil)
    seen_by: list[ClusterFacts] = []

    def broken(_: ClusterFacts) -> None:
        raise OperationError("the disk is full", hint="free some space")

    monkeypatch.setattr(housekeeping.Housekeeping, "_hang_up", lambda _, facts: broken(facts))
    monkeypatch.setattr(housekeeping.Housekeeping, "_prune", lambda _, __: 1 / 0)
    monkeypatch.setattr(housekeeping.Housekeeping, "_take_users", lambda _, facts: seen_by.append(facts))
    told = tidy.keep(LOST)
    assert seen_by == [LOST]
    assert "the disk is full; hint: free some space" in told
    assert "ZeroDivisionError" in told
    monkeypatch.setattr(housekeeping.Housekeeping, "_hang_up", lambda *_: None)
    monkeypatch.setattr(housekeeping.Housekeeping, "_prune", lambda *_: None)
    assert tidy.keep(LOST) == ""


def test_a_failed_apply_is_retried_until_the_files_match_cluster_yml(
    pg2: Here, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: this also covers the start of the agent, whose ExecStartPre= may fail."""
    laid, asked = ["old"], list(done)

    def control(verb: str, _: str = "") -> None:
        asked.append(verb)
        if len(asked) < 3:
            raise OperationError("apply: cluster.yml:3: a tab", hint="spaces")
        laid[0] = "new"

    pg2.loaded = "new"
    monkeypatch.setattr(paths, "laid_file", lambda: laid[0])
    monkeypatch.setattr(units, "control", control)
    monkeypatch.setattr(housekeeping, "_APPLY_PAUSE_SECONDS", 0.0)
    tidy = housekeeping.Housekeeping(pg2, agent.Agent(pg2)._vigil)
    told = [tidy.keep(LOST) for _ in range(4)]
    assert asked == ["apply"] * 3
    assert ["cluster.yml:3: a tab" in text for text in told] == [True, True, False, False]
