"""Start this node's pgpool-II, and have it attach or detach nodes."""

from __future__ import annotations

from ..copying import copy_source
from ..decision.actions import Attach, Detach, Redirect, StartPgpool, StopPgpool
from ..decision.situation import in_service
from ..definition.key import Role
from ..ground import paths
from ..ground.errors import ClusterError, OperationError
from ..machine import pgpool, units
from ..node.node import Here

_LISTEN_SECONDS = 20.0
"""Seconds within which a started pgpool-II must listen and answer pcp."""
_EXIT_SECONDS = 5.0
"""Seconds within which a pgpool-II that reported its exit must have ended; 4.6.1 can hang while it exits."""


def start_pgpool(here: Here, _: StartPgpool) -> None:
    """Start pgpool-II, and permit it to run from now on. Raises OperationError if it does not start or answer."""
    state = units.state(paths.PGPOOL_UNIT)
    if state.active == "deactivating" or state.queued or state.restarts_with("pgpool2"):
        return  # while the unit stops, its cause is unknown, and dpkg restarts a unit that it has stopped
    if paths.SERVE.exists() and state.active == "inactive" and state.was_active and state.result == "success":
        raise OperationError("pgpool-II was stopped by an administrator", hint=f"systemctl start {paths.PGPOOL_UNIT}")
    if not paths.SERVE.exists():
        _start_first_pgpool(here)
        return
    port = pgpool.port(here.cluster)
    if state.active == "active" and state.seconds > _LISTEN_SECONDS and not pgpool.listens(port, anybody=True):
        units.control("restart", paths.PGPOOL_UNIT)  # another program had the port when pgpool-II started
        return
    if state.active == "active" and not pgpool.listens(port):
        hint = f"ss -ltnp 'sport = :{port}' shows whether another program uses it; then systemctl restart pgpool2"
        raise OperationError(f"pgpool-II runs, but does not listen on port {port}", hint=hint)
    if state.active == "active" and state.seconds > _LISTEN_SECONDS:
        hint = "it waits for every PostgreSQL, also for one that hangs in a login; systemctl restart postgresql there"
        raise OperationError("pgpool-II runs, but pcp_node_info does not answer", hint=hint)
    if state.active not in ("active", "activating"):
        units.control("start", paths.PGPOOL_UNIT)
    reason = units.last_words(paths.PGPOOL_UNIT) if state.active != "active" else ""
    if state.active == "activating" and state.seconds > _EXIT_SECONDS and "exiting pgpool-II" in reason:
        units.control("restart", paths.PGPOOL_UNIT)
    if reason:
        hint = f"see journalctl -u {paths.PGPOOL_UNIT}"
        raise OperationError(f"pgpool-II does not start: {reason}", hint=hint)


def _start_first_pgpool(here: Here) -> None:
    """Start pgpool-II with the cluster's configuration; restart it if it ran before the cluster had a primary."""
    paths.SERVE.touch()
    if not here.cluster.mode.streams:
        pgpool.write_status(here.cluster, [found.node for found in in_service(here.cluster, here.look_at_all())])
    try:
        units.control("restart", paths.PGPOOL_UNIT)
    except ClusterError:
        paths.SERVE.unlink()
        raise


def stop_pgpool(_: Here, __: StopPgpool) -> None:
    """Stop pgpool-II, and permit it to run again only when the agent starts it."""
    paths.SERVE.unlink(missing_ok=True)
    units.control("stop", paths.PGPOOL_UNIT)


def attach(here: Here, action: Attach) -> None:
    """Attach a node to pgpool-II if the node accepts a login; otherwise raise OperationError.

    pgpool-II would wait without a time limit for a node that hangs.
    """
    node = here.cluster.named(action.node)
    if why := copy_source.refusal(node, Role.CHECK):  # a witness knows no other role
        hint = f"systemctl status postgresql on {node.name}; the node is attached once it accepts logins"
        raise OperationError(f"{node.name} rejects every login: {why}", hint=hint)
    pgpool.attach(here.cluster, node)


def detach(here: Here, action: Detach) -> None:
    """Detach a node from pgpool-II, which then sends no clients to it."""
    pgpool.detach(here.cluster, here.cluster.named(action.node))


def redirect(here: Here, action: Redirect) -> None:
    """Have pgpool-II send writes to the primary, and serve the clients that wait for the change (client_queue.py)."""
    with here.under_way.queue.redirecting():
        pgpool.redirect(here.cluster, here.cluster.named(action.primary))
    if action.primary == here.me.name:
        here.under_way.failover.pooled()
