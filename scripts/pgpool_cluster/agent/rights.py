"""Define which requests a node accepts from any node, from database nodes, or only from its own programs.

A witness, which runs pgpool-II but no PostgreSQL, can read facts and report the findings of its pgpool-II. It cannot
change a database node on its own authority. If its pgpool-II leads and a node must take over, the witness sends a
request to that database node, which decides by its own facts.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..definition.cluster import Cluster
from ..ground.errors import OperationError
from ..transport import protocol
from ..transport.protocol import VERSIONS_DIFFER, Request


class Asker(Enum):
    """The groups of programs that send requests."""

    ANYBODY = "any node"
    DATABASES = "nodes that run PostgreSQL"
    HERE = "programs on the node itself"


_BY_ASKER: dict[Asker, tuple[type[Request[Any]], ...]] = {
    Asker.ANYBODY: (
        protocol.LookRequest,
        protocol.NoteRequest,
        protocol.HistoryRequest,
        protocol.CheckRequest,
        protocol.ClockRequest,
        protocol.StandingRequest,
        protocol.SilentRequest,
        protocol.WatchRequest,
        protocol.UsersRequest,
        # any node may request these, because the receiver decides by its own facts
        protocol.PromoteRequest,
        protocol.FollowRequest,
        protocol.GoOnRequest,
        # the leading pgpool-II may run on a witness, and it decides which nodes get clients
        protocol.HoldRequest,
    ),
    Asker.DATABASES: (
        protocol.TermRequest,
        protocol.ExcuseRequest,
        protocol.NotePauseRequest,
        protocol.AttachRequest,
        protocol.DetachRequest,
        protocol.TakeBackRequest,
        protocol.LetGoRequest,
        protocol.RecoverRequest,
        protocol.SwitchoverRequest,
        protocol.PendingRequest,
        protocol.RestartRequest,
        protocol.QueueRequest,
        protocol.EndQueueRequest,
        protocol.StartRequest,
        protocol.UserRequest,
        protocol.RoleRequest,
        protocol.PcpRecoveryRequest,
        protocol.CopyRequest,
        protocol.TakeUpRequest,
        protocol.CancelActiveRequest,
        protocol.WhyRequest,
    ),
    Asker.HERE: (
        protocol.StatusRequest,
        protocol.PauseRequest,
        protocol.ClusterHistoryRequest,
        protocol.ConvergeRequest,
        protocol.WaitingRequest,
        protocol.RestartPlanRequest,
        protocol.FailoverRequest,
        protocol.MayStartRequest,
        protocol.FirstStageRequest,
        protocol.SecondStageRequest,
    ),
}
MAY_ASK = {request: asker for asker, requests in _BY_ASKER.items() for request in requests}
"""Every request that an agent answers."""


def is_database(cluster: Cluster, peer: str) -> bool:
    """Return whether `peer` is a local program ("") or a node that runs PostgreSQL."""
    return peer in ("", *(node.name for node in cluster.databases))


def refuse(cluster: Cluster, request: type[Request[Any]], peer: str) -> None:
    """Raise OperationError if `peer`, a node's name or "" for a local program, may not send `request`."""
    asker = MAY_ASK.get(request, Asker.HERE)
    if not peer or asker is Asker.ANYBODY or (asker is Asker.DATABASES and is_database(cluster, peer)):
        return
    if asker is Asker.HERE:
        reason = f"{peer} may not send {request.do!r}, which only programs on the node itself may send"
        raise OperationError(reason, hint=VERSIONS_DIFFER)
    hint = "run the same command on a node that runs PostgreSQL"
    raise OperationError(f"{peer} may not send {request.do!r}, because it runs no PostgreSQL", hint=hint)
