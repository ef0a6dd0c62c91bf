"""Create the cluster's own database roles and extensions on the primary, from the SQL that `apply` rendered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...configuration.rendering.rendered_paths import FOLDER
from ...configuration.rendering.rendering import key_of_roles
from ...definition.key import Role
from ...ground.errors import OperationError, ServerError, UsageError
from ...node.node import Here, sql_errors

EXTENSIONS = ("pgpool_recovery", "pgpool_adm")
_PATH = Path(FOLDER) / "roles.sql"
_VERIFIER = r"SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+"


@dataclass(frozen=True, slots=True)
class Roles:
    """SQL that creates the roles. Their passwords are derived from the cluster key with the fingerprint `key`.

    Key and SQL must come from one read, because `apply` may write the SQL of another key at any time.
    """

    key: str
    sql: str = field(repr=False)

    @classmethod
    def rendered(cls) -> Roles:
        """Read the roles that `apply` wrote last; raises ServerError if they cannot be read."""
        try:
            sql = _PATH.read_text(encoding="utf-8")
        except OSError as error:
            raise ServerError(f"{_PATH}: {error.strerror}", hint="pgpoolctl apply") from error
        return cls(key_of_roles(sql), sql)

    def laid(self, here: Here) -> bool:
        """Return whether this node's server has the roles with these passwords."""
        sql = "SELECT coalesce(rolpassword, '-') FROM pg_authid WHERE rolname = ANY(%s)"
        found = here.query(sql, list(Role))
        return len(found) == len(Role) and all(f"'{password}'" in self.sql for (password,) in found)

    def lay(self, here: Here) -> None:
        """Create the roles or change their passwords, and create the extensions where pgpool-II needs them.

        pgpool-II 4.3 to 4.6 look for pgpool_recovery in template1, 4.7 in recovery_database.
        """
        sql_errors(lambda: _lay_in(here, "template1", ""))
        sql_errors(lambda: _lay_in(here, "postgres", self.sql))


def _lay_in(here: Here, name: str, sql: str) -> None:
    with here.server.session(name) as cursor:
        if sql:
            cursor.execute(sql)
        create_extensions(here, cursor)


def create_extensions(here: Here, cursor: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
    """Create the extensions in the cursor's database; raises OperationError if pgpool_recovery is not installed."""
    for extension in EXTENSIONS:
        _create_extension(here, cursor, extension)


def _create_extension(here: Here, cursor: Any, extension: str) -> None:  # noqa: ANN401 - psycopg2 has no types
    cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", (extension,))
    if cursor.fetchone() is None:
        if extension != "pgpool_recovery":
            return
        major = here.server.instance.name.major
        raise OperationError(
            f"PostgreSQL {major} has no extension {extension}", hint=f"apt install postgresql-{major}-pgpool2"
        )
    cursor.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}")


def set_role(here: Here, name: str, verifier: str | None) -> None:
    """Set the password of a login role, and create the role if it is missing. Without a verifier, forbid its login."""
    if name in set(Role) or name == "postgres":
        raise UsageError(f"{name} is a role of the cluster itself", hint="choose another name")
    there = bool(here.query("SELECT 1 FROM pg_roles WHERE rolname = %s", name))
    quoted = '"' + name + '"'
    if verifier is None:
        if there:
            here.query(f"ALTER ROLE {quoted} NOLOGIN PASSWORD NULL")
        return
    if not re.fullmatch(_VERIFIER, verifier):
        raise OperationError(
            "not a SCRAM-SHA-256 verifier", hint="install the same version of pgpool2-cluster on every node"
        )
    if not there:
        here.query(f"CREATE ROLE {quoted}")
    here.query(f"ALTER ROLE {quoted} LOGIN PASSWORD '{verifier}'")
