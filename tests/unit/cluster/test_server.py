"""Which of a machine's PostgreSQL servers is the cluster's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster.cluster_file import parse
from pgpool_cluster.errors import UsageError
from pgpool_cluster.server import Instance, choose_instance

NODES = "nodes: {pg1: 10.0.0.1, pg2: {address: 10.0.0.2, port: 5433}}\n"


def chosen(text: str, node: str, *found: tuple[str, int]) -> str:
    cluster = parse(text + NODES, "cluster.yml", node)
    names = [parse(f"postgresql: {name}\n", "cluster.yml", node).postgresql for name, _ in found]
    instances = [Instance(name, port, Path("/srv")) for name, (_, port) in zip(names, found, strict=True) if name]
    return str(choose_instance(cluster, instances, cluster.named(node)).name)


@pytest.mark.parametrize(
    ("node", "found", "name"),
    [("pg1", [("17/main", 5433), ("15/main", 5432)], "15/main"),  # after a dist-upgrade
     ("pg1", [("17/main", 5432), ("15/main", 5433)], "17/main"),  # after pg_upgradecluster
     ("pg2", [("17/main", 5433), ("15/main", 5432)], "17/main"),
     ("pg1", [("15/main", 5432)], "15/main")],
)  # fmt: skip
def test_it_is_the_one_with_the_nodes_port(node: str, found: list[tuple[str, int]], name: str) -> None:
    assert chosen("", node, *found) == name


@pytest.mark.parametrize(
    ("text", "found", "said"),
    [("postgresql: 17\n", [("17/main", 5433), ("15/main", 5432)], "PostgreSQL 17/main has port 5433, not 5432"),
     ("", [("17/main", 5434), ("15/main", 5435)], "PostgreSQL 17/main has port 5434, not 5432"),
     ("postgresql: 16\n", [("17/main", 5432)], "this machine has no PostgreSQL 16/main")],
)  # fmt: skip
def test_one_that_is_named_and_does_not_fit_is_told(text: str, found: list[tuple[str, int]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(text, "pg1", *found)
