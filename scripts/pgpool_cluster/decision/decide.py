"""Facts in, actions out: decide what a node has to do to bring the cluster into the state that cluster.yml describes.

`decide` covers the first installation, boot, the time after a failover and the return of a failed node. Its parts are
joining.py, streaming_member.py or native.py, promotion.py and pooling.py; `promotion.failover` answers pgpool-II's
failover_command. All are pure; docs/explanation/decide.md explains the rules. For any facts:

- no action makes a node writable while another node in sight is writable, or without a majority of nodes in sight;
- data is replaced only on a node that is not a member and holds no database, or whose copy is incomplete, or whose
  data the primary has or, with automatic return, whose primary is confirmed by a majority;
- deciding again after the actions gives no action that changes anything.
"""

from __future__ import annotations

from collections.abc import Callable

from ..definition.cluster import Cluster, Node, Service
from . import joining, native, pooling, streaming_member
from .actions import Action, Begin, Clone, Detach, Dismiss, GiveUpPlace, Rebuild, Redirect, Rejoin, Stop
from .facts.facts import ClusterFacts, Postgresql
from .situation import Actions, Policy, Situation, rightful_primary


def decide(cluster: Cluster, me: Node, facts: ClusterFacts, policy: Policy | None = None) -> Actions:
    """Return the actions for node `me`, in order; () if nothing needs to change.

    `facts` are the facts that `me` has collected, including its own. Actions concern `me` and its pgpool-II, which
    attaches and detaches nodes. With a watchdog, only the node of the leading pgpool-II does that.
    """
    primary = rightful_primary(cluster, facts)
    situation = Situation(cluster, me, facts, facts.of(me.name), primary, policy or Policy())
    database = _of_database(situation) if Service.POSTGRESQL in me.runs else ()
    pooler = pooling.of_pgpool(situation) if Service.PGPOOL in me.runs else ()
    if any(isinstance(action, Redirect) for action in pooler):
        return pooler + database  # clients wait for it
    runs = cluster.mode.streams and situation.mine.pgpool is not None
    if runs and any(isinstance(action, _COPIES) for action in database):
        return pooler + database  # the agent informs its pgpool-II of nothing during the copy
    return database + pooler


_COPIES = (Clone, Rebuild, Rejoin)
"""Actions that may copy all data of another node."""


def confirmed(actions: Actions, again: Callable[[], Actions]) -> Actions:
    """Return the actions, but keep those that need a confirmation only if `again` decides them as well.

    The nodes learn of a new term one after the other, so the facts may mix nodes that know it with nodes that do not.
    """
    if not any(map(_needs_confirmation, actions)):
        return actions
    second = again()
    return tuple(action for action in actions if action in second or not _needs_confirmation(action))


def _needs_confirmation(action: Action) -> bool:
    return isinstance(action, _CONFIRMED_TWICE) and not (isinstance(action, Detach) and action.certain)


_CONFIRMED_TWICE = (Begin, Detach, Dismiss, GiveUpPlace, Rejoin, Stop)
"""Actions that take a node away from clients, or out of service, or replace its data."""


def _of_database(situation: Situation) -> Actions:
    mine = situation.mine
    if mine.half_copied:
        return joining.finish_copy(situation)
    if not mine.member:
        return joining.join(situation) if situation.others else joining.begin(situation)
    if mine.postgresql is Postgresql.ABSENT:
        return situation.await_recovery("its data directory is missing")
    if mine.postgresql is Postgresql.HANGING and streaming_member.was_replaced(situation):
        return (Stop(situation.name, "it hangs, and another node was promoted: it must not accept writes again"),)
    if mine.postgresql in _NOT_NOW:
        return situation.wait(_NOT_NOW[mine.postgresql])
    return streaming_member.of_member(situation) if situation.cluster.mode.streams else native.replica(situation)


_NOT_NOW = {
    Postgresql.STOPPED: "an administrator stopped its PostgreSQL: systemctl start postgresql",
    Postgresql.STARTING: "its PostgreSQL is starting, or has not answered for a moment",
    Postgresql.HANGING: "its PostgreSQL runs but does not answer: dmesg, and ps for states D and T, show why",
}
