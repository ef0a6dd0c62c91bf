"""Start or stop this node's server, let it follow another primary, and create its replication slots."""

from __future__ import annotations

from ..decision.actions import CreateSlots, Fence, Follow, Start, Stop
from ..ground.errors import OperationError
from ..node.node import Here
from ..postgresql import postgresql as pg
from ..postgresql import postmaster
from ..transport.protocol import FollowRequest
from . import timelines

_FOLLOW_SECONDS = 10.0
_CREATE_SLOT = "SELECT pg_create_physical_replication_slot(%s, true)"
_DROP_SLOT = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active
"""


def start(here: Here, _: Start) -> None:
    """Start this node's server."""
    with here.under_way.starting:
        pg.start(here.server)


def stop(here: Here, _: Stop) -> None:
    """Stop this node's server."""
    pg.stop(here.server)


def fence(here: Here, _: Fence) -> None:
    """Kill this node's server. Raises OperationError if a process of it is left."""
    database = here.server
    database.close()
    if not postmaster.kill(database.instance):
        raise OperationError(postmaster.LEFT, hint=postmaster.LEFT_HINT)


def follow(here: Here, action: Follow) -> None:
    """Point a standby at another primary and reload it. Raises OperationError if it knows a later term."""
    if action.node != here.me.name:
        here.peers.ask(action.node, FollowRequest(action.primary, action.term), seconds=_FOLLOW_SECONDS)
        return
    text = pg.conninfo(here.cluster, here.me.name, action.primary)
    with here.under_way.upstream:
        if 0 < action.term < here.record.term:
            reason = f"{action.primary} leads in term {action.term}, but term {here.record.term} has begun"
            raise OperationError(reason, hint="the agent decides again in its next round")
        timelines.expect(here, here.seen.value.of(action.primary))
        here.query(f"ALTER SYSTEM SET primary_conninfo = '{text}'")
        here.query("SELECT pg_reload_conf()")


def create_slots(here: Here, action: CreateSlots) -> None:
    """Create replication slots, and recreate those that have lost their WAL."""
    for slot in action.slots:
        drop_slot(here, slot)
        here.query(_CREATE_SLOT, slot)


def drop_slot(here: Here, slot: str) -> None:
    """Drop a replication slot that no standby is using. Raises OperationError."""
    here.query(_DROP_SLOT, slot)
