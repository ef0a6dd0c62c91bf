"""The cluster's own roles and extensions, on a stand-in for a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest

from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import Role
from pgpool_cluster.ground.errors import OperationError, ServerError, UsageError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.operations.accounts import roles
from pgpool_cluster.operations.accounts.roles import Roles
from pgpool_cluster.transport.peers import Peers

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"


class Server:
    """`ran` has the statements with their databases, and `passwords` has those of existing roles."""

    def __init__(self) -> None:
        self.instance = SimpleNamespace(name=SimpleNamespace(major=17))
        self.available = set(roles.EXTENSIONS)
        self.passwords: dict[str, str] = {}
        self.known: set[str] = set()
        self.ran: list[tuple[str, str]] = []
        self.fails = False

    def query(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        if self.fails:
            raise psycopg2.OperationalError("the disk is full\nDETAIL: more")
        if "pg_authid" in sql:
            return [(password,) for password in self.passwords.values()]
        if "FROM pg_roles" in sql:
            return [(1,)] if values[0] in self.known else []
        self.ran.append(("postgres", sql))
        return []

    @contextmanager
    def session(self, name: str) -> Iterator[Any]:
        found: list[object] = []

        def execute(sql: str, values: tuple[str, ...] = ()) -> None:
            if "pg_available_extensions" in sql:
                found[:] = [(1,)] if values[0] in self.available else []
            else:
                self.ran.append((name, sql))

        yield SimpleNamespace(execute=execute, fetchone=lambda: found[0] if found else None)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def here(server: Server) -> Here:
    return Here(CLUSTER, CLUSTER.named("pg1"), server, Peers({}), Record())  # type: ignore[arg-type]


def test_roles_and_extensions_are_created_where_each_pgpool_expects_them(here: Here, server: Server) -> None:
    Roles("key", "CREATE ROLE x").lay(here)
    made = [f"CREATE EXTENSION IF NOT EXISTS {name}" for name in roles.EXTENSIONS]
    assert server.ran == [*(("template1", sql) for sql in made), ("postgres", "CREATE ROLE x"),
                          *(("postgres", sql) for sql in made)]  # fmt: skip


def test_only_the_extension_for_recoveries_is_required(here: Here, server: Server) -> None:
    server.available = {"pgpool_recovery"}
    Roles("key", "").lay(here)
    assert {sql for _, sql in server.ran} == {"CREATE EXTENSION IF NOT EXISTS pgpool_recovery"}
    server.available = {"pgpool_adm"}
    with pytest.raises(OperationError, match="PostgreSQL 17 has no extension pgpool_recovery") as refused:
        Roles("key", "").lay(here)
    assert refused.value.hint == "apt install postgresql-17-pgpool2"


def test_the_roles_are_complete_if_each_has_the_password_of_the_key(here: Here, server: Server) -> None:
    found = Roles("key", "".join(f"ALTER ROLE {role} PASSWORD 'verifier of {role}';" for role in Role))
    assert not found.laid(here)
    server.passwords = {role: f"verifier of {role}" for role in Role}
    assert found.laid(here)
    server.passwords[next(iter(Role))] = "another key's"
    assert not found.laid(here)
    server.fails = True
    with pytest.raises(OperationError, match="PostgreSQL: the disk is full"):
        found.laid(here)


def test_the_file_of_the_roles_is_read_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "_PATH", tmp_path / "roles.sql")
    with pytest.raises(ServerError, match=r"roles\.sql: No such file") as refused:
        Roles.rendered()
    assert refused.value.hint == "pgpoolctl apply"
    (tmp_path / "roles.sql").write_text("SELECT 1;\n")
    monkeypatch.setattr(roles, "key_of_roles", lambda sql: f"key of {sql.strip()}")
    assert Roles.rendered() == Roles("key of SELECT 1;", "SELECT 1;\n")
    assert "SELECT" not in repr(Roles("key", "SELECT 1;\n"))


@pytest.mark.parametrize(
    ("known", "verifier", "ran"),
    [
        (False, VERIFIER, ['CREATE ROLE "app"', f"ALTER ROLE \"app\" LOGIN PASSWORD '{VERIFIER}'"]),
        (True, VERIFIER, [f"ALTER ROLE \"app\" LOGIN PASSWORD '{VERIFIER}'"]),
        (True, None, ['ALTER ROLE "app" NOLOGIN PASSWORD NULL']),
        (False, None, []),
    ],
)
def test_a_users_role_is_created_changed_or_barred_from_logging_in(
    known: bool, verifier: str | None, ran: list[str], here: Here, server: Server
) -> None:
    server.known = {"app"} if known else set()
    roles.set_role(here, "app", verifier)
    assert [sql for _, sql in server.ran] == ran


@pytest.mark.parametrize("verifier", ["secret", "", "SCRAM-SHA-256$4096:x$y:z' SUPERUSER --", f"{VERIFIER}\n"])
def test_an_invalid_verifier_reaches_no_statement(verifier: str, here: Here, server: Server) -> None:
    with pytest.raises(OperationError, match="not a SCRAM-SHA-256 verifier"):
        roles.set_role(here, "app", verifier)
    assert server.ran == []


@pytest.mark.parametrize("name", [*Role, "postgres"])
def test_a_role_of_the_cluster_itself_cannot_be_changed(name: str, here: Here, server: Server) -> None:
    with pytest.raises(UsageError, match="is a role of the cluster itself"):
        roles.set_role(here, name, VERIFIER)
    assert server.ran == []
