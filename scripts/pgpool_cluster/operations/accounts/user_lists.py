"""Change the list of users on the primary, fetch it from other nodes, and store it."""

from __future__ import annotations

import threading

from ...configuration.users import Users, changing
from ...decision.facts import terms
from ...decision.facts.facts import ClusterFacts
from ...decision.situation import in_service, rightful_primary
from ...definition.key import Role
from ...ground import paths, plain
from ...ground.errors import OperationError, UsageError
from ...machine import units
from ...node.node import Here
from ...transport.lines import OddAnswerError
from ...transport.peers import Progress
from ...transport.protocol import VERSIONS_DIFFER, Done, RoleRequest, UserList, UserRequest, UsersRequest
from . import roles

_CHANGE_SECONDS = 60.0
_ROLE_SECONDS = 30.0
_LIST_SECONDS = 5.0
_CHANGING_USERS = threading.Lock()
"""Held while the list of users is read, changed and stored, so that a second change builds on the first."""


def change(here: Here, request: UserRequest, progress: Progress) -> Done:
    """Create, change or remove a role on the primary, and send its pool_passwd entry to every node."""
    facts = here.look_at_all()
    primary = rightful_primary(here.cluster, facts)
    if primary is None:
        raise OperationError("no primary is reachable", hint="pgpoolctl status shows every node")
    if primary.node != here.me.name:
        return here.peers.ask(primary.node, request, seconds=_CHANGE_SECONDS, progress=progress)
    if not _CHANGING_USERS.acquire(timeout=_CHANGE_SECONDS / 2):
        raise OperationError(
            "another change of the users is still in progress", hint="run the same command again later"
        )
    try:
        _change_user(here, request, here.look_at_all(), progress)
    finally:
        _CHANGING_USERS.release()
    return Done()


def _change_user(here: Here, request: UserRequest, facts: ClusterFacts, progress: Progress) -> None:
    """Change a role on this node, the primary, and the list of users of every node. The caller holds the lock."""
    name, entry = role_name(request.name), request.entry
    known = Users.load(paths.USERS)
    newest = max(facts.nodes.values(), key=lambda found: found.users)
    if newest.users > known.serial:
        known = users_of(here, newest.node)
    if entry is not None and known.mark != request.mark:
        hint = f"pgpoolctl check | grep {paths.CLUSTER_KEY} shows the node; correct its key, then pgpoolctl apply there"
        raise OperationError("not every node has the same cluster key", hint=hint)
    roles.set_role(here, name, request.verifier)
    if not here.cluster.mode.streams:
        others = [found.node for found in in_service(here.cluster, facts) if found.node != here.me.name]
        for other in others:
            here.peers.ask(other, RoleRequest(name, request.verifier), seconds=_ROLE_SECONDS)
    users = known.with_entry(name, entry)
    if not store_users(users):
        reason = f"{name} was not stored: the list of users on this node is newer, or has another cluster key"
        raise OperationError(reason, hint="run the same command again; pgpoolctl check names a node with another key")
    new = listed(users)
    lists = here.peers.ask_all(UsersRequest(new), seconds=_ROLE_SECONDS)
    for node in here.cluster.nodes:
        if node != here.me and node.name not in lists:
            progress(f"{node.name} is unreachable and receives the change when it returns")
        elif node != here.me and lists[node.name] != new:
            progress(f"{node.name} has another cluster key or a newer list of users, and has not accepted the change")


def role_name(name: str) -> str:
    """Return the name of a role; raises UsageError if the name is not safe between quotes in SQL."""
    if not plain.is_role(name):
        raise UsageError(f"{name!r} is not a plain role name", hint="use letters, digits and _ . @ -")
    return name


def listed(users: Users) -> UserList:
    """Return the users in the form of an answer to another node."""
    return UserList(users.serial, users.entries, users.mark)


def users_in(found: UserList) -> Users:
    """Return the users of a list that another node sent; raises UsageError for impossible names or entries."""
    try:
        return Users.of({"serial": found.serial, "entries": dict(found.entries), "mark": found.mark})
    except ValueError as error:
        raise UsageError("invalid entry in a list of users", hint=VERSIONS_DIFFER) from error


def users_of(here: Here, name: str) -> Users:
    """Return another node's list of users. Raises ClusterError, also if the answer is not a list of users."""
    try:
        return users_in(here.peers.ask(name, UsersRequest(), seconds=_LIST_SECONDS))
    except (OddAnswerError, UsageError) as error:
        hint = f"journalctl -u {paths.UNIT}, on {name}; install the same version of pgpool2-cluster on every node"
        raise OperationError(f"{name} sent an invalid list of users", hint=hint) from error


def store_users(users: Users) -> bool:
    """Store a list of users if it is later than the stored one, write pool_passwd, and return whether it is stored.

    A list that is encrypted with another cluster key is not stored: an administrator is changing the key, or the nodes
    have different keys. A list that is stored already is written to pool_passwd again, because another thread may not
    have finished writing it, and the caller may rely on pgpool-II having read it.
    Raises OperationError for a list with the cluster's own roles or an impossible number.
    """
    if not terms.plausible(users.serial) or not set(Role).isdisjoint(users.entries):
        hint = f"pgpoolctl check; journalctl -u {paths.UNIT}, on every node, shows which node sent it"
        raise OperationError("another node sent a list of users that no command can have created", hint=hint)
    with changing(paths.USERS):
        known = Users.load(paths.USERS)
        if users != known:
            if users.serial <= known.serial or users.mark != known.mark:
                return False
            users.save(paths.USERS)
    units.control("apply")
    return True
