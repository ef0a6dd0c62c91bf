"""Plan in which order the servers of a cluster in streaming replication restart. Pure.

A standby that starts needs at least the primary's values of some parameters (matching.py), and a running one stops
replaying when the primary starts with higher values. So higher values reach the standbys first, and lower ones the
primary. In the first order, the primary restarts as the standby of a successor, so clients wait for a switchover only.
In the second one, no standby could succeed it, because the former primary could not follow. So it restarts in place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ..definition.cluster import Cluster
from ..ground import paths
from ..ground.errors import OperationError
from .facts import matching, replay
from .facts.facts import BackendState, ClusterFacts
from .reports.status import healthy

ALL = "pgpoolctl restart"
PENDING = f"{ALL} --pending"


class RestartKind(StrEnum):
    """How a server restarts."""

    STANDBY = "standby"
    PRIMARY = "primary"
    """In place: the primary stays the primary."""
    SWITCHOVER = "switchover"
    """The primary becomes a standby of its successor."""


@dataclass(frozen=True, slots=True)
class RestartStep:
    """The restart of `node`. `successor`: the standby that becomes the primary in a switchover."""

    kind: RestartKind
    node: str
    successor: str = ""


@dataclass(frozen=True, slots=True)
class Restartable:
    """A server with its values of the parameters that a standby must match: the running and the configured ones.

    `pending`: the parameters that a restart would change.
    """

    node: str
    running: Mapping[str, int]
    configured: Mapping[str, int]
    pending: tuple[str, ...] = ()


def plan(
    primary: Restartable, standbys: Sequence[Restartable], wanted: Collection[str], *, back: bool = False
) -> tuple[RestartStep, ...]:
    """Return the steps that restart the `wanted` nodes, in order; raises OperationError if no order works.

    `back`: the primary is the primary again at the end.
    """
    found = _in_order(primary, standbys, wanted, back=back)
    if not isinstance(found, str):
        return found
    everything = [primary.node, *(one.node for one in standbys)]
    if set(everything) - set(wanted) and not isinstance(_in_order(primary, standbys, everything, back=back), str):
        raise OperationError(found, hint=f"{ALL} restarts all nodes in an order that works")
    raise OperationError(found, hint=_way_out(primary, standbys))


def _in_order(
    primary: Restartable, standbys: Sequence[Restartable], wanted: Collection[str], *, back: bool
) -> tuple[RestartStep, ...] | str:
    """Return the steps in the order that works, or why none does."""
    first = _standbys_first(primary, standbys, wanted, back=back)
    second = _primary_first(primary, standbys, wanted) if isinstance(first, str) and primary.node in wanted else first
    return first if isinstance(second, str) else second


def _standbys_first(
    primary: Restartable, standbys: Sequence[Restartable], wanted: Collection[str], *, back: bool
) -> tuple[RestartStep, ...] | str:
    chosen = [one for one in standbys if one.node in wanted]
    for one in chosen:
        if why := _starts_low(one, primary.node, primary.running):
            return why
    steps = [RestartStep(RestartKind.STANDBY, one.node) for one in chosen]
    if primary.node not in wanted:
        return tuple(steps)
    now = [replace(one, running=one.configured) if one in chosen else one for one in standbys]
    reasons = {one.node: _succession(primary, one, [other for other in now if other is not one]) for one in now}
    able = [one for one in now if not reasons[one.node]]
    if not able:
        return next(iter(reasons.values()), "there is no standby to take the primary's place")
    steps.append(RestartStep(RestartKind.SWITCHOVER, primary.node, able[0].node))
    if back:
        changed = replace(primary, running=primary.configured)
        why = _succession(able[0], changed, [other for other in now if other is not able[0]])
        if why:
            return why
        steps.append(RestartStep(RestartKind.SWITCHOVER, able[0].node, primary.node))
    return tuple(steps)


def _succession(former: Restartable, successor: Restartable, others: Sequence[Restartable]) -> str:
    """Return why the standby `successor` cannot become the primary, so that all others follow it; "" if it can."""
    for one in others:
        low = matching.lower(one.running, successor.running)
        for name, (value, least) in low.items():
            return f"{one.node} has {name} = {value}, and {successor.node} would lead with {least}"
    return _starts_low(former, successor.node, successor.running)


def _primary_first(
    primary: Restartable, standbys: Sequence[Restartable], wanted: Collection[str]
) -> tuple[RestartStep, ...] | str:
    for one in standbys:
        for name, (value, least) in matching.lower(one.running, primary.configured).items():
            return f"{one.node} has {name} = {value}, and {primary.node} would start with {least}"
        if one.node in wanted and (why := _starts_low(one, primary.node, primary.configured)):
            return why
    rest = (RestartStep(RestartKind.STANDBY, one.node) for one in standbys if one.node in wanted)
    return RestartStep(RestartKind.PRIMARY, primary.node), *rest


def _starts_low(one: Restartable, leader: str, needs: Mapping[str, int]) -> str:
    """Return why a server could not start as a standby of `leader`, which runs with `needs`; "" if it could."""
    for name, (value, least) in matching.lower(one.configured, needs).items():
        return f"{one.node} would start with {name} = {value}, and {leader} has {least}: {one.node} could not follow it"
    return ""


def _way_out(primary: Restartable, standbys: Sequence[Restartable]) -> str:
    every = [primary, *standbys]
    grow = {name for one in every for name in matching.lower(one.running, one.configured)}
    shrink = {name for one in every for name in matching.lower(one.configured, one.running)}
    if not grow or not shrink:
        return "pgpoolctl apply on every node; pgpoolctl check names values that override the cluster's"
    present = {name: max(one.running[name] for one in every if name in one.running) for name in sorted(shrink)}
    first = f"in {paths.CLUSTER_YML} on every node {matching.lines(present)}; pgpoolctl apply on every node; {PENDING}"
    changes = f"{', '.join(sorted(grow))} grows and {', '.join(sorted(shrink))} shrinks"
    return f"{changes}, so restart twice: {first}; then the lower values in the same way"


def ready(cluster: Cluster, facts: ClusterFacts) -> bool:
    """Return whether a node may restart now: the cluster is healthy, or would be with higher parameters of standbys."""
    low = [one.node for one in facts.members(cluster) if one.needs and one.stalled == replay.too_low(one)]
    nodes = dict(facts.nodes)
    for name in low:
        nodes[name] = replace(nodes[name], stalled="", needs={})
    for name, one in nodes.items():
        if one.pgpool is not None:
            backends = {**one.pgpool.backends, **dict.fromkeys(low, BackendState.UP)}
            nodes[name] = replace(one, pgpool=replace(one.pgpool, backends=backends))
    return healthy(cluster, ClusterFacts(nodes))


def restarting(facts: ClusterFacts, me: str) -> tuple[str, ...]:
    """Return the other nodes that restart their servers now."""
    return tuple(name for name, one in facts.nodes.items() if name != me and one.stalled == replay.RESTARTING)
