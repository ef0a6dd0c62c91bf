"""Access rights: which requests a node accepts from any node, from database nodes, or only from its own programs.

A witness, which runs pgpool-II but no PostgreSQL, can read facts and report what its pgpool-II has found. It cannot
change a database node on its own authority: if its pgpool-II leads and a node has to take over, the database node that
it asks decides by its own facts.
"""

from __future__ import annotations

from enum import Enum

from .cluster import Cluster
from .errors import OperationError


class Asker(Enum):
    """The groups of programs that send requests."""

    ANYBODY = "any node"
    DATABASES = "nodes that run PostgreSQL"
    HERE = "programs on the node itself"


_BY_ASKER = {
    Asker.ANYBODY: (
        "look", "note", "check", "clock", "standing", "silent", "watch", "users",
        # it may be asked; what comes of it follows from the facts of the node that is asked
        "promote", "follow", "go-on",
        # whether clients are sent to a node is pgpool-II's, on whichever node it leads
        "hold",
    ),
    Asker.DATABASES: (
        "term", "excuse", "attach", "detach", "take-back", "recover", "switchover", "start", "user", "role",
        "pcp-recovery", "copy", "take-up", "cancel-active", "why",
    ),
    Asker.HERE: ("status", "converge", "waiting", "failover", "may-start", "first-stage", "second-stage"),
}  # fmt: skip
MAY_ASK = {verb: asker for asker, verbs in _BY_ASKER.items() for verb in verbs}
"""Every request that an agent answers, by its `do`."""


def is_database(cluster: Cluster, peer: str) -> bool:
    """Return whether `peer` is a program on this node ("") or a node that runs PostgreSQL."""
    return peer in ("", *(node.name for node in cluster.databases))


def refuse(cluster: Cluster, verb: str, peer: str) -> None:
    """Raise OperationError where `peer`, a node's name or "" for this one, may not ask for `verb`."""
    asker = MAY_ASK.get(verb, Asker.HERE)
    if not peer or asker is Asker.ANYBODY or (asker is Asker.DATABASES and is_database(cluster, peer)):
        return
    if asker is Asker.HERE:
        reason = f"only programs on the node itself may ask for {verb!r}, and {peer} did"
        raise OperationError(reason, hint="the nodes have different versions")
    hint = "the same command on a node that runs PostgreSQL"
    raise OperationError(f"{peer} runs no PostgreSQL, so it may not ask for {verb!r}", hint=hint)
