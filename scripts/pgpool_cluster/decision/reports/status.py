"""Build the report of `pgpoolctl status` from the facts of all nodes, without side effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...definition.cluster import Cluster, Node
from ...ground import paths
from .. import standstill
from ..facts import replay
from ..facts.facts import LEADING, BackendState, ClusterFacts, NodeFacts, Postgresql, WatchdogState
from ..liveness.links import Link, LinkState
from ..situation import in_service, leading_node, leads, rightful_primary
from . import chronology
from .report import ArchiveReport, NodeReport, PgpoolReport, Report

_LINKS: Mapping[str, str] = {
    LinkState.LOST: "its link with this node is lost: heartbeats do not arrive in both directions",
    LinkState.NEVER: "no link with this node yet: heartbeats do not arrive in both directions",
}
"""The notes in the text of `status` about links that should be up."""


def report(
    cluster: Cluster, facts: ClusterFacts, notes: Mapping[str, str], links: Mapping[str, Link] | None = None
) -> Report:
    """Return the report of `pgpoolctl status` (docs/reference/pgpoolctl.md). `links`: those of the answering node."""
    states = {name: str(link.state) for name, link in (links or {}).items()}
    primary = rightful_primary(cluster, facts)
    return Report(
        cluster=cluster.name,
        mode=str(cluster.mode),
        healthy=healthy(cluster, facts),
        nodes=tuple(
            replace(_node(cluster, facts, node, primary, notes), link=states.get(node.name))
            for node in cluster.databases
        ),
        pgpools=tuple(
            replace(_pgpool(cluster, facts, facts.of(node.name)), link=states.get(node.name))
            for node in cluster.pgpools
        ),
        notes=_notes(cluster, facts, notes),
    )


def _notes(cluster: Cluster, facts: ClusterFacts, notes: Mapping[str, str]) -> dict[str, str]:
    held = {
        node.name: f"an administrator detached it; hint: pgpoolctl attach {node.name}"
        for node in cluster.databases
        if facts.of(node.name).held
    }
    stalled = {
        node.name: f"{found.stalled}; hint: {replay.hint(found)}"
        for node in cluster.databases
        if cluster.mode.streams and (found := facts.of(node.name)).standby and found.stalled
    }
    messages = {name: note for name, note in notes.items() if note}
    every = dict(sorted({**held, **stalled, **messages}.items()))
    for node in cluster.databases:
        one = facts.of(node.name)
        if one.up and not one.laid:
            every[node.name] = "; ".join(text for text in (_not_laid(node.name), every.get(node.name, "")) if text)
    return every


def _not_laid(name: str) -> str:
    return (
        f"its PostgreSQL runs with the wrong synchronous_standby_names, so commits do not wait as they should; "
        f"hint: pgpoolctl apply, on {name}, corrects them or shows why it cannot; pgpoolctl check"
    )


def differing(cluster: Cluster, facts: ClusterFacts, name: str) -> list[str]:
    """Return the note of node `name`, whose cluster.yml is `cluster`, about nodes with a different cluster.yml."""
    others = ", ".join(facts.differing(cluster))
    if not others:
        return []
    hint = f"use the same {paths.CLUSTER_YML} on every node, then pgpoolctl apply on every node"
    return [f"cluster.yml of {others} differs from that of {name}, so their votes do not count; hint: {hint}"]


def healthy(cluster: Cluster, facts: ClusterFacts) -> bool:
    """Return whether every node has its role and its configuration, and every pgpool-II uses every node."""
    return _laid_down(cluster, facts) and _in_place(cluster, facts) and _known(cluster, facts)


def _laid_down(cluster: Cluster, facts: ClusterFacts) -> bool:
    """Return whether all reachable nodes have the same cluster.yml and have applied it."""
    return not facts.differing(cluster) and all(facts.of(node.name).applied for node in cluster.nodes)


def _in_place(cluster: Cluster, facts: ClusterFacts) -> bool:
    members = [facts.of(node.name) for node in cluster.databases]
    if any(not found.up or not found.member or found.half_copied for found in members):
        return False
    primary = rightful_primary(cluster, facts)
    # A node that does not yet know that standbys have connected has not applied synchronous replication yet.
    waited_for = cluster.synchronous > 0 and cluster.names_standbys
    known = all(found.standbys_came or not found.file for found in members) or not waited_for
    if primary is None or not known or not all(found.laid for found in members):
        return False
    if not cluster.mode.streams:
        return len(in_service(cluster, facts)) == len(members)
    return all(found is primary or _follows(found, primary) for found in members)


def _known(cluster: Cluster, facts: ClusterFacts) -> bool:
    """Return whether every pgpool-II is running and uses every node, and whether one leads or all have the primary."""
    names = [node.name for node in cluster.databases]
    views = [facts.of(node.name).pgpool for node in cluster.pgpools]
    if not all(view and all(view.backends.get(name) is BackendState.UP for name in names) for view in views):
        return False
    if not cluster.uses_watchdog:
        primary = rightful_primary(cluster, facts)
        writes = None if primary is None or not cluster.mode.streams else primary.node
        return all(view is not None and writes in (None, view.primary) for view in views)
    if sum(view is not None and view.watchdog in LEADING and view.quorum for view in views) != 1:
        return False
    return all(view is not None and view.watchdog is not WatchdogState.OTHER for view in views)


def _follows(found: NodeFacts, primary: NodeFacts) -> bool:
    return found.standby and found.streaming and not found.stalled and found.follows == primary.node


def _role(cluster: Cluster, found: NodeFacts, primary: NodeFacts | None) -> str:
    if not found.reachable or found.postgresql is not Postgresql.UP:
        return "unknown"
    if not cluster.mode.streams:
        return "main" if found is primary else "replica"
    if found.in_recovery:
        return "standby"
    return "primary" if found is primary else "writable"


def _node(
    cluster: Cluster, facts: ClusterFacts, node: Node, primary: NodeFacts | None, notes: Mapping[str, str]
) -> NodeReport:
    found = facts.of(node.name)
    return NodeReport(
        name=node.name,
        address=node.written,
        id=cluster.databases.index(node),
        role=_role(cluster, found, primary),
        postgresql=str(found.postgresql) if found.reachable else "unreachable",
        pgpool=_belief(cluster, facts, node.name),
        lag_bytes=_lag(found, primary),
        timeline=found.timeline,
        streaming=found.streaming,
        stalled=found.stalled,
        note=notes.get(node.name, ""),
        archive=_archive(found),
        diverged=found.diverged,
    )


def _archive(found: NodeFacts) -> ArchiveReport | None:
    usage = found.archive
    if usage is None or not found.reachable:
        return None
    return ArchiveReport(usage.files, usage.bytes, round(usage.used, 2), usage.oldest or None, usage.newest or None)


def _belief(cluster: Cluster, facts: ClusterFacts, name: str) -> str:
    """Return pgpool-II's state of a node: up only if each pgpool-II says so, or that of the leading one in a watchdog.

    A pgpool-II that was cut off claims for some seconds that it leads and that all others are down, but has no quorum.
    """
    views = [view for node in cluster.pgpools if (view := facts.of(node.name).pgpool) is not None]
    if not cluster.uses_watchdog:
        views.sort(key=lambda view: view.backends.get(name) is BackendState.UP)
        return str(views[0].backends.get(name, "unknown")) if views else "unknown"
    views.sort(key=lambda view: (not leads(view), view.watchdog not in LEADING))
    return str(views[0].backends.get(name, "unknown")) if views else "unknown"


def _lag(found: NodeFacts, primary: NodeFacts | None) -> int | None:
    if primary is None or primary.position is None or not found.up:
        return None
    if found is primary:
        return 0
    return max(0, primary.position.bytes - found.replayed.bytes) if found.replayed else None


def _pgpool(cluster: Cluster, facts: ClusterFacts, found: NodeFacts) -> PgpoolReport:
    return PgpoolReport(found.node, _pgpool_state(cluster, facts, found), bool(cluster.virtual_ip and found.virtual_ip))


def _pgpool_state(cluster: Cluster, facts: ClusterFacts, found: NodeFacts) -> str:
    if not found.reachable or found.pgpool is None:
        return "down" if found.reachable else "unreachable"
    state = found.pgpool.watchdog
    if state is WatchdogState.ALONE and len(cluster.pgpools) > 1:
        state = WatchdogState.LEADER if found.node == leading_node(cluster, facts) else WatchdogState.STANDBY
    return str(state)


def lines(status: Report) -> list[str]:
    """Return the lines of a status as text for people."""
    head = ("node", "role", "postgresql", "pgpool", "lag", "timeline", "address")
    rows = [
        (
            node.name, node.role, node.postgresql, node.pgpool,
            "-" if node.lag_bytes is None else str(node.lag_bytes),
            "-" if node.timeline is None else str(node.timeline), node.address,
        )
        for node in status.nodes
    ]  # fmt: skip
    text = [f"cluster {status.cluster}, {status.mode}: {'healthy' if status.healthy else 'NOT healthy'}"]
    if status.paused is not None:
        since = chronology.stamp(status.paused.since)
        text.append(f"PAUSED since {since}: {standstill.described(status.paused)}; hint: pgpoolctl resume")
    text += ["", *_table([head, *rows]), ""]
    pools = [(one.name, one.state, "virtual address" if one.virtual_ip else "") for one in status.pgpools]
    text += _table([("pgpool-II", "state", ""), *pools])
    archives = [
        (node.name, str(kept.files), str(kept.bytes), f"{kept.used:.0%}", kept.oldest or "-")
        for node in status.nodes
        if (kept := node.archive) is not None
    ]
    if archives:
        text += ["", *_table([("archive", "files", "bytes", "disk used", "from"), *archives])]
    diverged = [
        (f"{node.name}:{one.name}", str(one.committed), str(one.other), one.begins, one.ends, str(one.bytes))
        for node in status.nodes
        for one in node.diverged
    ]
    if diverged:
        text += ["", *_table([("diverged WAL", "committed", "other", "from", "to", "bytes"), *diverged])]
    links = {one.name: one.link for one in status.nodes} | {one.name: one.link for one in status.pgpools}
    notes = [f"{name}: {_LINKS[link]}" for name, link in links.items() if link is not None and link in _LINKS]
    notes += [f"{name}: {note}" for name, note in status.notes.items()]
    last = [chronology.short(event) for event in status.history]
    return [*text, *(["", *notes] if notes else []), *(["", "last events (pgpoolctl history):", *last] if last else [])]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
