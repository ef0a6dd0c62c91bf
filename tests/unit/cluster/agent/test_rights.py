"""Access rights of each kind of node: a witness can read but change nothing, and no term is out of reach."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cluster.world import World, at_work, hands, make_cluster

from pgpool_cluster.agent import rights
from pgpool_cluster.decision.facts import terms
from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.definition.cluster import Mode
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import ClusterError, OperationError, UsageError
from pgpool_cluster.transport import protocol, wire
from pgpool_cluster.transport.channel import serving
from pgpool_cluster.transport.peers import Progress
from pgpool_cluster.transport.protocol import Done, FailoverRequest, WatchRequest

Json = dict[str, Any]
STREAMS = Mode.STREAMING_REPLICATION
NATIVE = Mode.NATIVE_REPLICATION
SCRIPTS = Path(inspect.getfile(rights)).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _hands() -> Iterator[None]:
    with hands():
        yield


@pytest.fixture
def world() -> Iterator[World]:
    """Two database nodes and a witness; pg1 is the primary."""
    with at_work(World.healthy(make_cluster(STREAMS, 2, witness=True))) as found:
        yield found


def led_by_witness() -> World:
    """Three database nodes, each of which is a primary, and a witness, whose pgpool-II leads."""
    world = World.healthy(make_cluster(NATIVE, 3, witness=True))
    world.pools.remove("w")
    world.pools.insert(0, "w")
    return world


def asked(world: World, name: str, request: Json, *, peer: str) -> Any:
    """Return the answer of node `name` to node `peer`."""
    return world.on(name, protocol.decode(request), peer)


def test_every_request_has_one_line_about_its_askers() -> None:
    assert set(rights.MAY_ASK) == set(protocol.REQUESTS.values())
    assert len(rights.MAY_ASK) == sum(len(found) for found in rights._BY_ASKER.values())


@pytest.mark.parametrize(
    "request_",
    [{"do": "term", "term": 9}, {"do": "excuse", "term": 1, "serial": 9, "names": ["pg2"], "file": ""},
     {"do": "recover", "node": "pg2", "force": True}, {"do": "switchover", "node": "pg2"},
     {"do": "role", "name": "app", "verifier": None}, {"do": "user", "name": "app", "verifier": None},
     {"do": "users", "new": {"serial": 9, "entries": {}, "mark": ""}}, {"do": "copy", "source": "pg1"},
     {"do": "detach", "node": "pg2"}, {"do": "let-go", "node": "pg2"}, {"do": "take-back", "node": "pg2"},
     {"do": "take-up", "source": "pg1", "position": "0/0", "term": 9}, {"do": "start", "host": "pg2"},
     {"do": "pcp-recovery", "node": "pg2"}, {"do": "cancel-active", "since": 0}, {"do": "why", "why": ""},
     {"do": "note-pause", "pause": {"serial": 9, "paused": True, "since": 1.0, "by": "w", "reason": ""}, "file": ""},
     {"do": "pause", "paused": True, "by": "w"}, {"do": "cluster-history", "most": 9},
     {"do": "failover", "failed": 0}, {"do": "may-start", "instance": "15-main"}, {"do": "converge"}],
)  # fmt: skip
@pytest.mark.parametrize("peer", ["w", "gone"])
def test_a_witness_and_a_removed_node_change_nothing(request_: Json, peer: str, world: World) -> None:
    before = world.state()
    with pytest.raises(OperationError, match=r"may not send") as refused:
        asked(world, "pg2", request_, peer=peer)
    assert refused.value.hint
    assert world.state() == before


def test_a_witness_cannot_promote_a_node_while_the_primary_is_in_sight(world: World) -> None:
    for request in ({"do": "promote", "term": 2, "excuse": [0, 0]}, {"do": "promote", "term": 2, "excuse": None}):
        with pytest.raises(OperationError, match="pg2 does not confirm that it must be promoted"):
            asked(world, "pg2", request, peer="w")
    with pytest.raises(OperationError, match="does not confirm that it must follow"):
        asked(world, "pg2", {"do": "follow", "primary": "pg2"}, peer="w")
    assert [host.record.term for host in world.hosts.values()] == [1, 1, 0]


def test_a_witness_of_an_older_package_makes_the_right_node_take_over(world: World) -> None:
    """During an upgrade, its pgpool-II may still run failover_command."""
    world.cut(["pg1"])
    asked(world, "pg2", {"do": "promote", "term": 2, "excuse": None}, peer="w")
    assert world.hosts["pg2"].record.led == 2
    assert not world.hosts["pg2"].data.standby  # type: ignore[union-attr]


def test_with_streaming_the_failover_command_of_a_witness_changes_nothing(world: World) -> None:
    world.cut(["pg1"])
    before = world.state()
    (text,) = world.on("w", FailoverRequest(0)).actions
    assert text.startswith("waits: in streaming replication, the agents decide")
    assert world.state() == before


def test_the_term_of_a_promotion_is_the_nodes_own(world: World) -> None:
    world.cut(["pg1"])
    asked(world, "pg2", {"do": "promote", "term": 10**6, "excuse": [9, 9]}, peer="w")
    assert world.hosts["pg2"].record.led == 2


def test_in_a_native_cluster_a_database_node_decides_which_node_is_out_of_service() -> None:
    with at_work(led_by_witness()) as world:
        with pytest.raises(OperationError, match="does not confirm that the other nodes must continue"):
            asked(world, "pg2", {"do": "go-on", "node": None}, peer="w")
        world.cut(["pg1"])
        world.on("w", FailoverRequest(0))
        assert [world.hosts[name].record.led for name in ("pg1", "pg2", "pg3")] == [1, 2, 2]


def test_a_node_is_rebuilt_through_a_pgpool_that_may_log_in_as_a_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_work(led_by_witness()) as world:
        world.cut(["pg1"])
        world.on("w", FailoverRequest(0))
        world.boot("pg1")
        world.pools.remove("w")
        world.pools.insert(0, "w")
        world.settle(world.hosts)
        ran, run = [], world.pcp

        def pcp(*words: Any, **more: Any) -> Any:
            ran.append(world.stack[-1])
            return run(*words, **more)

        monkeypatch.setattr(world, "pcp", pcp)
        assert world.command("recover", "pg1") == ""
        world.settle(world.hosts)
        assert world.is_healthy(), world.shown()
        assert world.pools[0] == "w"
        assert ran
        assert set(ran) <= {"pg1", "pg2", "pg3"}


# Terms


@pytest.mark.parametrize("term", ["9", 1.5, True, None, 0, -1, 10**12, pytest.param(10**4000, id="long")])
def test_an_implausible_term_is_not_recorded(term: object, world: World) -> None:
    excuse = {"do": "excuse", "serial": 1, "names": [], "file": world.cluster.fingerprint}
    for request in ({"do": "term"}, {"do": "promote", "excuse": [0, 0]}, excuse):
        with pytest.raises(UsageError, match="no cluster can have reached term"):
            asked(world, "pg2", {**request, "term": term}, peer="pg1")
    assert world.hosts["pg2"].record.term == 1


def test_a_node_that_was_away_for_long_notes_a_much_higher_term(world: World) -> None:
    assert asked(world, "pg2", {"do": "term", "term": 5000}, peer="pg1").taken


def test_a_lie_up_to_the_limit_costs_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.time()
    monkeypatch.setattr("pgpool_cluster.decision.facts.terms.time.time", lambda: moment)
    asked(world, "pg2", {"do": "term", "term": terms.highest()}, peer="pg1")
    world.cut(["pg1"])
    with pytest.raises(ClusterError):
        asked(world, "w", {"do": "term", "term": terms.highest() + 1}, peer="pg2")
    moment += 1
    assert asked(world, "w", {"do": "term", "term": terms.highest()}, peer="pg2").taken


@pytest.mark.parametrize("term", [10**6, 10**6 + 10_000])
def test_a_cluster_whose_term_was_driven_up_continues_by_itself(term: int) -> None:
    """A compromised node sent all others a term in which no node leads."""
    with at_work(World.healthy(make_cluster(STREAMS, 3))) as world:
        world.write()
        for name in world.hosts:
            asked(world, name, {"do": "term", "term": term}, peer="pg3")
        world.settle(world.hosts)
        assert world.is_healthy(), world.shown()
        assert max(host.record.led for host in world.hosts.values()) == term + 1
        world.cut(["pg1"])
        world.settle(world.hosts)
        assert world.serves(), world.shown()
        assert world.acknowledged <= world.hosts["pg2"].data.writes  # type: ignore[union-attr]


def test_a_node_that_claims_an_absurd_term_is_not_believed() -> None:
    for name in ("term", "led", "restart", "users"):
        told = {**wire.fields(NodeFacts("pg1")), name: 10**12}
        with pytest.raises(ValueError, match=f"{name}: no cluster"):
            wire.read(NodeFacts, told, "facts")
    assert wire.read(NodeFacts, wire.fields(NodeFacts("pg1", term=5000)), "facts").term == 5000


# The identity of the requesting node


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[object, str]]]:
    """The requests that an agent gets, each with the node that it comes from."""
    found: list[tuple[object, str]] = []

    def answer(request: object, _: Progress, peer: str = "") -> Any:
        found.append((request, peer))
        return Done()

    monkeypatch.setattr(paths, "AGENT", tmp_path / "agent")
    with serving(answer):
        yield found


def test_only_the_forced_command_identifies_the_requesting_node(
    heard: list[tuple[object, str]],
) -> None:
    program = (
        "from pathlib import Path; from pgpool_cluster.ground import paths; "
        "from pgpool_cluster.transport import channel; "
        f"paths.AGENT = Path({str(paths.AGENT)!r}); channel.bridge('pg2.example-1')"
    )
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=environment) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": "watch", "from": "", "id": 1}).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"done": {}, "version": protocol.VERSION, "id": 1}
        process.stdin.close()
        process.kill()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(paths.AGENT))
        asking.sendall(json.dumps({"do": "watch", "from": "pg1", "id": 2}).encode() + b"\n")
        assert json.loads(asking.makefile().readline())["id"] == 2
    assert heard == [(WatchRequest(), "pg2.example-1"), (WatchRequest(), "")]
