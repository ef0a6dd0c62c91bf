"""Check that the users in pool_passwd can log in; each fault names the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...definition.key import LONGEST_ENTRY_CHARACTERS, LONGEST_PASSWORD_CHARACTERS
from ...ground.fault import Fault
from ...node.node import Here
from ...postgresql import typed

_ROLES = """
SELECT rolname, rolcanlogin, coalesce(rolvaliduntil < now(), false), coalesce(left(rolpassword, 14), '')
FROM pg_authid WHERE rolname = ANY(%s)
"""
_SCRAM = "SCRAM-SHA-256$"


def unreadable(entries: Mapping[str, str]) -> Iterator[Fault]:
    """Yield the users whose pool_passwd value pgpool-II truncates: an older package accepted longer passwords."""
    for name in sorted(name for name, entry in entries.items() if len(entry) > LONGEST_ENTRY_CHARACTERS):
        reason = (
            f"the password of {name} is longer than the {LONGEST_PASSWORD_CHARACTERS} characters that pgpool-II reads"
        )
        yield Fault(reason, f"pgpoolctl user set {name}")


def refused(here: Here, entries: Mapping[str, str]) -> Iterator[Fault]:
    """Yield the users that this node's server would refuse to log in through pgpool-II; raises OperationError."""
    port = here.server.instance.port
    roles = {str(row[0]): row[1:] for row in here.query(_ROLES, sorted(entries))}
    for name in sorted(entries):
        if name not in roles:
            yield Fault(f"PostgreSQL has no role {name}", f"pgpoolctl user set {name}, or pgpoolctl user remove {name}")
            continue
        may, expired, password = roles[name]
        if not may:
            yield Fault(f"the role {name} may not log in", typed.psql(port, f'ALTER ROLE "{name}" LOGIN'))
        if expired:
            forever = f"ALTER ROLE \"{name}\" VALID UNTIL 'infinity'"
            yield Fault(f"the password of {name} has expired", typed.psql(port, forever))
        if password.startswith("md5"):
            reason = f"{name} has an md5 password in PostgreSQL, but pgpool-II logs in with SCRAM"
            yield Fault(reason, f"pgpoolctl user set {name}")
        elif password != _SCRAM:
            yield Fault(f"{name} has no password in PostgreSQL", f"pgpoolctl user set {name}")
