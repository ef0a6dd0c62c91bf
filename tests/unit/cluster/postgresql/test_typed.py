"""SQL as a command that a shell runs as it is."""

from __future__ import annotations

import shlex

from pgpool_cluster.postgresql import typed


def test_a_shell_passes_each_statement_to_psql_unchanged() -> None:
    statements = ('ALTER ROLE "a b$(x)" LOGIN', "ALTER ROLE a VALID UNTIL 'infinity'")
    command = typed.psql(5433, *statements, database="app")
    words = ["runuser", "-u", "postgres", "--", "psql", "-X", "-p", "5433", "-d", "app"]
    assert shlex.split(command) == [*words, "-c", statements[0], "-c", statements[1]]
