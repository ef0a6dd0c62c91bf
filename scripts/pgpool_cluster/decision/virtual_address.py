"""Decide which node has the virtual address, in streaming replication. Pure.

The node of the primary has it, if its pgpool-II answers. A node takes it only after the former holder has reported that
it no longer has it, or after a holder without contact to a majority has dropped it by its own clock. Seconds after the
last heartbeat that arrived:

- a node notices a lost link after DEAD_SECONDS (1.2). If heartbeats arrive in one direction only, it is ECHO_SECONDS
  (1.8) at most on the side where they arrive. The probes of the servers end at about the same time;
- so the holder is alone after 1.9 at most, decides in a round that begins at once, and root removes the address within
  0.4: it is gone after 2.3, and after 1.7 if no heartbeat arrives in either direction;
- another node takes it after GONE_SECONDS (2.5) at the earliest. It counts from DEAD_SECONDS before the moment at which
  it sees that a majority has no sign of life of the holder.

A holder that is suspended for longer, or whose agent has died, keeps the address. So root asks on the link before it
puts the address up, and refuses if another host answers (machine/due_address.py).
"""

from __future__ import annotations

from ..definition.cluster import Node, Service
from . import fencing
from .actions import DropAddress, TakeAddress
from .facts.facts import NodeFacts, WatchdogState
from .liveness.links import DEAD_SECONDS
from .situation import Actions, Situation

DROP_SECONDS = DEAD_SECONDS
"""Seconds without contact to a majority after which a node drops the address, before it is fenced."""
GONE_SECONDS = 2.5
"""Seconds without a sign of life of a node after which it has dropped the address."""
AWAY_SECONDS = 3.0
"""Seconds for which the holder's pgpool-II may be away, as in an upgrade, before another node takes the address."""


def of_virtual_address(situation: Situation) -> Actions:
    """Decide whether this node takes or drops the virtual address; () if it does neither."""
    if not situation.cluster.moves_address:
        return ()
    return _dropped(situation) if situation.mine.virtual_ip else _taken(situation)


def holder(situation: Situation) -> str:
    """Return the node that should have the address; "" if none should take it.

    That is the node of the primary, otherwise the present holder, otherwise the first node, of those whose pgpool-II
    answers. Without a primary, the address stays where it is, so that it moves once in a failover.
    """
    cluster, facts = situation.cluster, situation.facts
    fit = [node for node in cluster.pgpools if _serves(situation, facts.of(node.name))]
    primary = situation.primary.node if situation.primary is not None else ""
    if primary in [node.name for node in fit]:
        return primary
    present = [node for node in fit if facts.of(node.name).virtual_ip]
    best = sorted(fit, key=lambda node: _may_copy(node, facts.of(node.name))) if primary else []
    return next((node.name for node in present or best), "")


def _serves(situation: Situation, found: NodeFacts) -> bool:
    """Return whether a node may have the address. A copy of data blocks the agent, so it could not drop the address."""
    if not found.reachable or found.half_copied:
        return False
    returns = found.virtual_ip and found.node == situation.name and not situation.policy.pool_away
    return found.pgpool is not None or returns


def _may_copy(node: Node, found: NodeFacts) -> bool:
    """Return whether a node may be about to copy data, for which it would drop the address again."""
    return Service.POSTGRESQL in node.runs and not (found.member and found.up and (found.streaming or found.writable))


def _dropped(situation: Situation) -> Actions:
    alone = situation.policy.alone_seconds
    if fencing.can_be_replaced(situation.cluster) and alone >= DROP_SECONDS:
        return (DropAddress(situation.name, fencing.REASON),)
    watched = [one.node for one in _holders(situation) if one is not situation.mine and _has_watchdog(one)]
    if watched:
        return (DropAddress(situation.name, f"the watchdog of {watched[0]}, whose package is older, has put it up"),)
    wanted = holder(situation)
    if wanted in ("", situation.name) or not situation.majority:
        return ()
    return (DropAddress(situation.name, f"{wanted} takes it"),)


def _holders(situation: Situation) -> list[NodeFacts]:
    found = [situation.facts.of(node.name) for node in situation.cluster.nodes]
    return [one for one in found if one.reachable and one.virtual_ip]


def _has_watchdog(found: NodeFacts) -> bool:
    """Return whether a node has the address from its watchdog, so that its agent does not drop it."""
    return found.pgpool is not None and found.pgpool.watchdog is WatchdogState.LEADER


def _taken(situation: Situation) -> Actions:
    if not situation.majority or holder(situation) != situation.name:
        return ()
    cluster, facts = situation.cluster, situation.facts
    holders = _holders(situation)
    if holders:
        return situation.wait(f"{holders[0].node} still has the virtual address")
    unreachable = [node.name for node in cluster.pgpools if not facts.of(node.name).reachable]
    away = [name for name in unreachable if name not in situation.policy.gone]
    if away:
        return situation.wait(f"{away[0]} may still have the virtual address: it does not answer, but may be at work")
    return (TakeAddress(situation.name),)
