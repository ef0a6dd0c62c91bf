"""End clients' statements that delay the second stage of a recovery, with the same result on all nodes."""

from __future__ import annotations

import contextlib
import time

from ..definition.key import Role
from ..ground import log
from ..ground.errors import ClusterError
from ..node.node import Here
from ..transport.channel import SILENCE
from ..transport.protocol import CancelActiveRequest

_EVER_SECONDS = 1e9
_FINISH_SECONDS = 10.0
"""Seconds for which statements that the main node has already executed may finish on the other nodes. The limit is half
of the time that recovery_timeout leaves, if that is shorter: after recovery_timeout, pgpool-II considers a busy session
a miscount, and continues (recovery.c, ensure_conn_counter_validity)."""
_CANCEL_PAUSE_SECONDS = 1.0
_CANCEL_SECONDS = 3.0
_CANCEL = """
SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity AS session
WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid() AND usename <> ALL(%s)
AND query_start < clock_timestamp() - interval '0.5 s'
AND (query_start > clock_timestamp() - %s * interval '1 s' OR NOT EXISTS (
    SELECT FROM pg_locks AS held WHERE held.pid = session.pid AND locktype = 'relation' AND mode <> 'AccessShareLock'
))
"""
"""Cancel clients' statements with the same result on all nodes; pgpool-II detaches a node with a different result.

A statement runs on the main node and then on the others, even if it was cancelled on the main node. If a writing
statement began more than `since` seconds ago on another node, the main node has completed it, so it may finish. A
statement that has just begun is not cancelled, because it may not have sent its row description yet (a "kind
mismatch").
"""


def watch(here: Here, began: float) -> None:
    """Cancel running statements on all nodes after the deadline; pgpool-II then ends the idle sessions.

    Only statements are cancelled; sessions stay connected. A COMMIT cannot be cancelled, so no node misses one.
    `began`: the second stage, as `Drain.begin` returned it.
    """
    drain, limit = here.under_way.drain, here.cluster.drain_seconds
    said = False
    time.sleep(limit)
    over = time.monotonic()
    finishing = min(_FINISH_SECONDS, (here.cluster.recovery_timeout - limit) / 2)
    while drain.goes_on(began) and time.monotonic() < began + SILENCE:
        count = cancel_active(here, _EVER_SECONDS)
        since = time.monotonic() - over
        request = CancelActiveRequest(since if since < finishing else _EVER_SECONDS)
        count += sum(answer.count for answer in here.peers.ask_all(request, seconds=_CANCEL_SECONDS).values())
        if count and not said:
            log.warning(f"second stage: sessions did not end within {limit:.0f} s, so their statements are cancelled")
            said = True
        time.sleep(_CANCEL_PAUSE_SECONDS)
    drain.give_up(began)


def cancel_active(here: Here, since: float) -> int:
    """Cancel clients' statements, but a writing one only if it began in the last `since` seconds; return the number."""
    with contextlib.suppress(ClusterError):
        return int(here.query(_CANCEL, [*Role, "postgres"], since)[0][0])
    return 0
