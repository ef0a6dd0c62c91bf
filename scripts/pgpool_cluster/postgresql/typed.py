"""Write SQL as a command that root can type on a server."""

from __future__ import annotations

import shlex

from ..ground import paths


def psql(port: int, *statements: str, database: str = "postgres") -> str:
    """Return the command that runs the statements one by one, each in a transaction of its own, as the superuser."""
    words = ["runuser", "-u", paths.POSTGRES, "--", "psql", "-X", "-p", str(port), "-d", database]
    return shlex.join([*words, *(word for statement in statements for word in ("-c", statement))])
