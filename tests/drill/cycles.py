"""Cycles of dependencies between transactions, by the theory of Adya: which of them a history contains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import networkx

from .operations import Operation


class Cycle(StrEnum):
    """Kinds of cycles, from the worst to the least."""

    WRITES = "cycle of writes"
    FLOW = "circular flow of information"
    SINGLE = "cycle with one overwritten read"
    FORK = "long fork"


class _Kind(StrEnum):
    """Why a transaction comes before another one."""

    OVERWRITES = "ww"
    READS = "wr"
    MISSES = "rw"


@dataclass(frozen=True, slots=True)
class Edge:
    """The transaction numbered `source` comes before the one numbered `target`."""

    source: int
    target: int
    kind: str


def edges(operations: Sequence[Operation], final: Mapping[str, Sequence[int]]) -> Iterator[Edge]:
    """Yield the dependencies between operations, numbered by their position.

    Every read must be a prefix of the final list, and every value of a final list have one writer.
    """
    writers = {
        (name, value): number
        for number, operation in enumerate(operations)
        for name, value in operation.appends.items()
    }
    orders = {name: [writers[name, value] for value in values] for name, values in final.items()}
    for order in orders.values():
        yield from _distinct(pairwise(order), _Kind.OVERWRITES)
    for number, operation in enumerate(operations):
        for name, seen in operation.reads.items():
            order = orders.get(name, [])
            yield from _distinct([(order[len(seen) - 1], number)] if seen else [], _Kind.READS)
            yield from _distinct([(number, order[len(seen)])] if len(seen) < len(order) else [], _Kind.MISSES)


def _distinct(pairs: Iterable[tuple[int, int]], kind: _Kind) -> Iterator[Edge]:
    """Yield the edges between different transactions."""
    yield from (Edge(source, target, kind) for source, target in pairs if source != target)


def shortest(found: Sequence[Edge]) -> dict[Cycle, tuple[int, ...]]:
    """Return the shortest cycle of each kind that occurs, as numbers of operations in the order of the cycle."""
    every = _graph(found)
    inside = [
        edge
        for part in networkx.strongly_connected_components(every)
        if len(part) > 1
        for edge in found
        if edge.source in part and edge.target in part
    ]
    writes = [edge for edge in inside if edge.kind == _Kind.OVERWRITES]
    flow = [edge for edge in inside if edge.kind != _Kind.MISSES]
    misses = [edge for edge in inside if edge.kind == _Kind.MISSES]
    cycles = {
        Cycle.WRITES: _closing(writes, writes),
        Cycle.FLOW: _closing([edge for edge in flow if edge.kind == _Kind.READS], flow),
        Cycle.SINGLE: _closing(misses, flow),
        Cycle.FORK: _twice(misses, inside),
    }
    return {kind: cycle for kind, cycle in cycles.items() if cycle}


def _graph(found: Sequence[Edge]) -> networkx.DiGraph:
    graph = networkx.DiGraph()
    graph.add_edges_from((edge.source, edge.target) for edge in found)
    return graph


def _closing(first: Sequence[Edge], others: Sequence[Edge]) -> tuple[int, ...]:
    """Return the shortest cycle of one of the `first` edges and a path of `others`; empty if there is none."""
    return min(_paths(first, _graph(others)), key=len, default=())


def _twice(misses: Sequence[Edge], every: Sequence[Edge]) -> tuple[int, ...]:
    """Return the shortest cycle with at least two overwritten reads.

    Each node exists twice: before and after the second such edge, so that a path must use one.
    """
    graph = networkx.DiGraph()
    for edge in every:
        graph.add_edge((edge.source, 0), (edge.target, 0))
        graph.add_edge((edge.source, 1), (edge.target, 1))
    for edge in misses:
        graph.add_edge((edge.source, 0), (edge.target, 1))
    cycles: list[tuple[int, ...]] = []
    for edge in misses:
        try:
            path = networkx.shortest_path(graph, (edge.target, 0), (edge.source, 1))
        except (networkx.NetworkXNoPath, networkx.NodeNotFound):
            continue
        cycle = tuple(int(number) for number, _ in path)
        if len(set(cycle)) == len(cycle):
            cycles.append(cycle)
    return min(cycles, key=len, default=())


def _paths(first: Sequence[Edge], graph: networkx.DiGraph) -> Iterator[tuple[int, ...]]:
    for edge in first:
        try:
            path = networkx.shortest_path(graph, edge.target, edge.source)
        except (networkx.NetworkXNoPath, networkx.NodeNotFound):
            continue
        yield tuple(int(number) for number in path)
