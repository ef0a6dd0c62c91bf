"""Check whether the cluster's own roles and pgpool-II's users can log in to the primary."""

from __future__ import annotations

from collections.abc import Iterator

from ...configuration.users import Users
from ...definition.key import Role
from ...ground import paths
from ...ground.fault import Fault
from ...node.node import Here
from ...operations.accounts import logins
from ...operations.accounts.roles import Roles
from ...postgresql import typed
from .checklist import Checklist

_RIGHTS = """
SELECT rolname::text, rolcanlogin, rolvaliduntil IS NULL OR rolvaliduntil > now(), rolconnlimit = -1,
       rolsuper, rolreplication, pg_has_role(oid, 'pg_monitor', 'member')
FROM pg_authid WHERE rolname = ANY(%s) ORDER BY rolname
"""
_FOR_ALL = ("LOGIN", "VALID UNTIL 'infinity'", "CONNECTION LIMIT -1")
_BECAUSE = {
    "LOGIN": "may not log in",
    "VALID UNTIL 'infinity'": "has a password that has expired",
    "CONNECTION LIMIT -1": "has a connection limit",
    "SUPERUSER": "is not a superuser, so it cannot call pgpool_recovery()",
    "REPLICATION": "may not replicate",
}


def of_roles(here: Here, checks: Checklist) -> None:
    """Check the roles on the primary; standbys have the same ones."""
    checks.add(
        "the cluster's roles have the passwords derived from cluster.key",
        Roles.rendered().laid(here),
        "their passwords differ",
        "pgpoolctl apply on this node",
    )
    checks.add_faults("the cluster's roles have their rights", _lost(here))
    own = here.look().own_database
    checks.add(
        "the cluster's roles have their own database",
        own,
        "it is missing, or rejects their logins",
        "pgpoolctl converge --once creates it; pgpoolctl status shows any error",
    )
    users = Users.load(paths.USERS).entries
    checks.add_faults("pgpool-II's users can log in", logins.refused(here, users))


def _lost(here: Here) -> Iterator[Fault]:
    """Yield the attributes that the roles lack; the agent restores their passwords only."""
    port = here.server.instance.port
    for name, login, valid, unlimited, superuser, replication, monitor in here.query(_RIGHTS, list(Role)):
        has = dict(zip(_FOR_ALL, (login, valid, unlimited), strict=True))
        has |= {"SUPERUSER": superuser} if name == Role.RECOVERY else {}
        has |= {"REPLICATION": replication} if name == Role.REPLICATION else {}
        for attribute in (one for one, there in has.items() if not there):
            yield Fault(f"{name} {_BECAUSE[attribute]}", typed.psql(port, f"ALTER ROLE {name} {attribute}"))
        if name == Role.CHECK and not monitor:
            fix = typed.psql(port, f"GRANT pg_monitor TO {name}")
            yield Fault(f"{name} is not a member of pg_monitor", fix)
