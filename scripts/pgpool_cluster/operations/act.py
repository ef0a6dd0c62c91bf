"""Carry out the actions that `decide` returns, with one function per action. Each function is safe to repeat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import assert_never

from ..copying import copying
from ..decision.actions import (
    Action,
    Attach,
    AwaitRecovery,
    Begin,
    Clone,
    CreateSlots,
    Deed,
    Detach,
    Dismiss,
    Fence,
    Follow,
    Found,
    GiveUpPlace,
    Lead,
    Promote,
    Rebuild,
    Redirect,
    Refuse,
    Rejoin,
    Resume,
    Serve,
    StandApart,
    Start,
    StartPgpool,
    Stop,
    StopPgpool,
    Wait,
    said,
)
from ..decision.reports.events import kind_of, reason
from ..ground import log
from ..ground.errors import ClusterError, OperationError
from ..node import recording
from ..node.node import Here
from ..postgresql import postmaster
from ..transport.peers import Progress
from ..transport.protocol import RecoverRequest
from . import pgpool_service, postgresql_service, restarts
from .accounts.roles import Roles
from .succession import claims, new_primary

_Copying = Callable[[Here, str, Progress], None]
_RETRY_PAUSE_SECONDS = 3.0
"""Seconds before a failed rebuild is retried."""


def perform(here: Here, action: Action) -> None:
    """Carry out one action; do nothing for an action that only states a reason. Raises ClusterError if it fails."""
    if isinstance(action, Wait | AwaitRecovery | Refuse) or _not_due(here, action):
        return
    unless_done = isinstance(action, Promote | Rebuild)  # the promoted node, and the recovery, record these
    with recording.timed(here, kind_of(action), said(action), why=reason(action), unless_done=unless_done):
        _work(here, action)
    here.forget_looks()


def _not_due(here: Here, action: Deed) -> bool:
    """Return whether copies or returns keep failing, and the next is not due, or the node has been fenced already.

    `status` reports the former. The latter is the work of fence_watch.py.
    """
    if isinstance(action, Fence):
        return not postmaster.runs(here.server.instance)
    if not isinstance(action, Clone | Rejoin):
        return False
    work = here.under_way
    return not work.copies.due or (_returns(here, action) and not work.returns.due)


def _returns(here: Here, action: Clone | Rejoin) -> bool:
    """Return whether a copy is a try to return as a standby (returns.py), or goes on with one that has failed."""
    return isinstance(action, Rejoin) or bool(here.under_way.returns.count and here.record.copying)


def _work(here: Here, action: Deed) -> None:  # noqa: C901, PLR0912 - one case an action
    match action:
        case Found():
            found(here, action)
        case Clone():
            clone(here, action)
        case Rejoin():
            rejoin(here, action)
        case Rebuild():
            rebuild(here, action)
        case GiveUpPlace():
            give_up_place(here, action)
        case StandApart():
            stand_apart(here, action)
        case Serve():
            new_primary.serve(here, action)
        case Begin():
            claims.begin(here, action)
        case Dismiss():
            claims.dismiss(here, action)
        case Start():
            postgresql_service.start(here, action)
        case Resume():
            new_primary.resume(here, action)
        case Stop():
            postgresql_service.stop(here, action)
        case Fence():
            postgresql_service.fence(here, action)
        case Promote():
            new_primary.promote(here, action)
        case Lead():
            claims.lead(here, action)
        case Follow():
            postgresql_service.follow(here, action)
        case CreateSlots():
            postgresql_service.create_slots(here, action)
        case StartPgpool():
            pgpool_service.start_pgpool(here, action)
        case StopPgpool():
            pgpool_service.stop_pgpool(here, action)
        case Attach():
            pgpool_service.attach(here, action)
        case Detach():
            pgpool_service.detach(here, action)
        case Redirect():
            pgpool_service.redirect(here, action)
        case _:
            assert_never(action)


def found(here: Here, _: Found) -> None:
    """Make this node's data the cluster's: create roles and extensions, and restart the server if necessary."""
    folder = here.server.instance.configuration
    if not restarts.includes_drop_in(here):
        reason = f"{folder}/postgresql.conf does not include conf.d, so the cluster's parameters are not read"
        raise OperationError(reason, hint=restarts.INCLUDE_HINT.format(folder=folder))
    restarts.restart_if_pending(here)
    Roles.rendered().lay(here)
    system = int(here.query("SELECT system_identifier FROM pg_control_system()")[0][0])
    here.remember(system=system, term=1, led=1, copying="")


def give_up_place(here: Here, _: GiveUpPlace) -> None:
    """Record that this node must not serve again until it has been rebuilt."""
    here.remember(led=0, apart=False)


def stand_apart(here: Here, _: StandApart) -> None:
    """Record that clients may have written to this node alone, so that it has more data than the other nodes."""
    here.remember(apart=True)


def rebuild(here: Here, _: Rebuild) -> None:
    """Start an online recovery of this node in a thread, unless it has rejoined since the facts were collected."""
    mine = here.look()
    served = mine.member and mine.writable and not mine.half_copied and mine.led >= mine.term
    work = here.under_way
    if not served and work.copies.due and not work.rebuilding.requested and not work.promoting:
        threading.Thread(target=_rebuild, args=(here,), daemon=True).start()


def _rebuild(here: Here) -> None:
    try:
        here.answer(RecoverRequest(here.me.name), log.info)
    except ClusterError as error:
        here.under_way.copies.failed(error)
        log.warning(f"rebuilding this node: {error.message}")
        time.sleep(_RETRY_PAUSE_SECONDS)
    else:
        here.under_way.copies.end()


def clone(here: Here, action: Clone) -> None:
    """Replace this node's data with a copy of the source."""
    _copied(here, action, copying.clone)


def rejoin(here: Here, action: Rejoin) -> None:
    """Make this node a standby again, and keep as much of its data as possible."""
    _copied(here, action, copying.rejoin)


def _copied(here: Here, action: Clone | Rejoin, work: _Copying) -> None:
    """Copy, and count a failure."""
    copies, returns = here.under_way.copies, here.under_way.returns
    is_return = _returns(here, action)
    if is_return:
        returns.begin(action.source)
    try:
        work(here, action.source, log.info)
    except ClusterError as error:
        copies.failed(error)
        if is_return:
            returns.failed(error)
        raise
