"""`pgpoolctl recover` of a node that needs none is refused before anything is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.nodes import CLUSTER, NATIVE, healthy, orphaned, pgpool, primary, seen, standby

from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.decision.recovery_plan import refuse_in_service, refuse_needless
from pgpool_cluster.definition.cluster import Cluster
from pgpool_cluster.ground.errors import OperationError


def refuse(cluster: Cluster, nodes: tuple[NodeFacts, ...], name: str) -> None:
    """Refuse a recovery of node `name` as the cluster's mode does; the first node is the primary."""
    if cluster.mode.streams:
        refuse_needless(cluster, seen(*nodes), nodes[0], name)
    else:
        refuse_in_service(cluster, seen(*nodes), name)


NATIVE_NODES = (replace(primary("pg1"), pgpool=pgpool()), primary("pg2"), primary("pg3"))


@pytest.mark.parametrize(
    ("cluster", "nodes", "name"),
    [
        (CLUSTER, healthy(), "pg2"),
        (NATIVE, NATIVE_NODES, "pg1"),
        (NATIVE, NATIVE_NODES, "pg3"),
    ],
)
def test_a_node_in_use_needs_no_recovery(cluster: Cluster, nodes: tuple[NodeFacts, ...], name: str) -> None:
    with pytest.raises(OperationError, match=f"{name} needs no recovery") as refusal:
        refuse(cluster, nodes, name)
    assert refusal.value.hint.startswith(f"pgpoolctl recover --force {name}")


LED = replace(primary("pg1"), pgpool=pgpool())


@pytest.mark.parametrize(
    ("cluster", "nodes"),
    [
        pytest.param(CLUSTER, (LED, orphaned(standby("pg2", "pg1"))), id="it does not stream"),
        pytest.param(CLUSTER, (LED, replace(standby("pg2", "pg1"), held=True)), id="it is held"),
        pytest.param(CLUSTER, (LED, replace(standby("pg2", "pg1"), half_copied=True)), id="half a copy"),
        pytest.param(CLUSTER, (replace(LED, pgpool=pgpool("pg2")), standby("pg2", "pg1")), id="pgpool-II gave it up"),
        pytest.param(CLUSTER, (primary("pg1"), standby("pg2", "pg1")), id="no pgpool-II is the watchdog leader"),
        pytest.param(NATIVE, (replace(LED, term=2, led=2), primary("pg2")), id="it missed writes"),
        pytest.param(NATIVE, (replace(LED, pgpool=pgpool("pg2")), primary("pg2")), id="given up, every node a primary"),
    ],
)
def test_any_other_node_is_recovered(cluster: Cluster, nodes: tuple[NodeFacts, ...]) -> None:
    refuse(cluster, nodes, "pg2")
