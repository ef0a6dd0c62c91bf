"""Decide how a node joins the cluster, and how a new cluster begins. Pure."""

from __future__ import annotations

from . import native
from .actions import Clone, Found, Refuse, Start
from .facts.facts import Postgresql
from .situation import Actions, Situation


def finish_copy(situation: Situation) -> Actions:
    """Return how a node whose copy is incomplete gets a complete one."""
    if not situation.cluster.mode.streams:
        return native.rebuild(situation)
    source = situation.source
    if source is None:
        return situation.wait("its copy is incomplete, and no node to copy from is reachable")
    if situation.policy.exhausted:
        return situation.await_recovery("its copy is incomplete")
    return (Clone(situation.name, source.node),)


def join(situation: Situation) -> Actions:
    """Return how a node joins an existing cluster."""
    mine, source = situation.mine, situation.source
    if mine.postgresql is not Postgresql.ABSENT:
        if mine.databases is None:
            return _look_inside(situation)
        if mine.databases:
            return _keep(situation)
    if not situation.cluster.mode.streams:
        return native.rebuild(situation)
    if source is None:
        return situation.wait("no node to copy from is reachable")
    return (Clone(situation.name, source.node),)


def begin(situation: Situation) -> Actions:
    """Return how a new cluster begins: the first node keeps its data, and the others wait for it."""
    mine, first = situation.mine, situation.cluster.databases[0]
    if situation.me == first:
        return _found(situation)
    if mine.postgresql is not Postgresql.ABSENT and mine.databases:
        return _keep(situation)
    return situation.wait(f"{first.name} has not initialized the cluster yet")


def _found(situation: Situation) -> Actions:
    mine = situation.mine
    if mine.postgresql is Postgresql.ABSENT:
        hint = "create one with pg_createcluster, or install postgresql"
        return (Refuse(situation.name, "it has no PostgreSQL cluster", hint),)
    if not mine.up:
        return _look_inside(situation)
    if mine.in_recovery:
        hint = "promote it, or put another node first in cluster.yml"
        return (Refuse(situation.name, "its PostgreSQL is a standby of a server outside the cluster", hint),)
    if not situation.majority:
        return situation.wait("too few nodes answer to rule out an existing cluster")
    return (Found(situation.name),)


def _look_inside(situation: Situation) -> Actions:
    """Start a PostgreSQL that is not part of the cluster, to see which databases it holds."""
    if situation.mine.postgresql is Postgresql.DOWN:
        return (Start(situation.name),)
    return situation.wait("its PostgreSQL is not running, so its databases are unknown: systemctl start postgresql")


def _keep(situation: Situation) -> Actions:
    names = ", ".join(situation.mine.databases or ())
    hint = (
        f"to keep them, put {situation.name} first in cluster.yml before the cluster is initialized, or pg_dump "
        "them; otherwise drop them; the node then joins automatically"
    )
    return (Refuse(situation.name, f"it holds databases that no other node has: {names}", hint),)
