"""Let the clients of every pgpool-II wait during a planned change of the primary."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ..decision.actions import Redirect
from ..definition.cluster import Service
from ..ground.errors import ClusterError, UsageError
from ..ground.waiting import poll
from ..node.node import Here
from ..transport.peers import Progress
from ..transport.protocol import EndQueueRequest, QueueAnswer, QueueRequest, Request
from . import pgpool_service

A = TypeVar("A")
DRAIN_SECONDS = 5.0
"""Time that open transactions get by default."""
LONGEST_DRAIN_SECONDS = 60.0
_CHANGE_SECONDS = 15.0
"""Time of a change of the primary after the open transactions; then every node ends its queue by itself."""
_ANSWER_SECONDS = 2.0
_REDIRECT_SECONDS = 5.0
_PAUSE_SECONDS = 0.02


def bounded(drain: float) -> float:
    """Return a time for open transactions that came with a request; raises UsageError for one out of bounds."""
    if 0 <= drain <= LONGEST_DRAIN_SECONDS:
        return drain
    raise UsageError(
        f"transactions cannot get {drain:g} s to end", hint=f"0 to {LONGEST_DRAIN_SECONDS:g}, as in --drain 10"
    )


@contextmanager
def waiting_clients(here: Here, drain: float, progress: Progress) -> Iterator[None]:
    """Let new clients and new statements of every pgpool-II wait during the block, and open transactions end before.

    The block begins when no transaction is open, or after `drain` seconds. A node whose package is older, or that does
    not answer, has no queue. The queues end with the block.
    """
    try:
        _drain(here, drain, progress)
        yield
    finally:
        _everywhere(here, EndQueueRequest(), seconds=_ANSWER_SECONDS)


def redirect(here: Here, primary: str) -> None:
    """Have the pgpool-IIs send writes to the new primary, and let the clients go on, which then reach that primary.

    The agents repeat what fails.
    """
    _everywhere(here, EndQueueRequest(primary), seconds=_REDIRECT_SECONDS)


def answer(here: Here, request: QueueRequest) -> QueueAnswer:
    """Begin this node's queue, or count the clients that it waits for."""
    if Service.PGPOOL not in here.me.runs:
        return QueueAnswer(0)
    return QueueAnswer(here.under_way.queue.begin(request.seconds, here.cluster.pool_port))


def end(here: Here, request: EndQueueRequest) -> None:
    """End this node's queue, and before that, redirect its pgpool-II. Raises OperationError if that fails."""
    try:
        if request.primary and Service.PGPOOL in here.me.runs:
            pgpool_service.redirect(here, Redirect(here.me.name, here.cluster.named(request.primary).name))
            here.forget_looks()
    finally:
        here.under_way.queue.end()


def _drain(here: Here, drain: float, progress: Progress) -> None:
    deadline = time.monotonic() + drain
    busy = _begin(here, drain)
    if busy and drain:
        progress(f"waiting for {busy} client{'s' if busy > 1 else ''} with an open transaction, at most {drain:g} s")
        left = max(0.0, deadline - time.monotonic())
        poll(lambda: not _begin(here, drain), seconds=left, pause=_PAUSE_SECONDS)


def _begin(here: Here, drain: float) -> int:
    """Begin the queues if that has not been done, and return the number of clients that are not waiting."""
    found = _everywhere(here, QueueRequest(drain + _CHANGE_SECONDS), seconds=_ANSWER_SECONDS)
    return sum(one.busy for one in found)


def _everywhere(here: Here, request: Request[A], *, seconds: float) -> list[A]:
    """Send a request to all nodes with pgpool-II at the same time, and return the answers of those that obeyed."""
    names = [node.name for node in here.cluster.pgpools]
    found: list[A] = []
    others = threading.Thread(
        target=lambda: found.extend(here.peers.ask_some(names, request, seconds=seconds).values()), daemon=True
    )
    others.start()
    if here.me.name in names:
        with suppress(ClusterError):
            found.append(here.on(here.me.name, request, seconds=seconds))
    others.join()
    return found
