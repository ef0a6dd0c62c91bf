"""A user whose login through pgpool-II would fail is refused at creation, and reported with a fix if it exists."""

from __future__ import annotations

import argparse
import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_cluster.cli import verbs
from pgpool_cluster.definition import key
from pgpool_cluster.ground import plain
from pgpool_cluster.ground.errors import UsageError
from pgpool_cluster.operations.accounts import logins
from pgpool_cluster.postgresql import typed as typed_sql

POOL_KEY = "A" * 43


def typed(monkeypatch: pytest.MonkeyPatch, password: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{password}\n"))
    return verbs._password(argparse.Namespace(password_stdin=True, name="app"))


def test_the_longest_password_is_the_longest_that_pgpool_reads() -> None:
    """pgpool-II's getNextToken() reads 128 characters (src/auth/pool_passwd.c, V4_3_5 to V4_7_2)."""
    assert len(key.pool_passwd_entry("x" * key.LONGEST_PASSWORD_CHARACTERS, POOL_KEY)) <= key.LONGEST_ENTRY_CHARACTERS
    assert (
        len(key.pool_passwd_entry("x" * (key.LONGEST_PASSWORD_CHARACTERS + 1), POOL_KEY)) > key.LONGEST_ENTRY_CHARACTERS
    )


@pytest.mark.parametrize(
    ("password", "reason"),
    [("x" * 80, "has 80 characters, and pgpool-II reads passwords of at most 79"), ("", "is empty"),
     ("café", "beyond ASCII"), ("a\tb", "control character")],
)  # fmt: skip
def test_an_unusable_password_is_refused(password: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of 200 characters used to be accepted, and its user could not log in."""
    with pytest.raises(UsageError, match=reason):
        typed(monkeypatch, password)


@pytest.mark.parametrize("password", ["x" * 79, " ", "md5x", "AES", "TEXTx", "SCRAM-SHA-256$"])
def test_an_unusual_password_that_works_is_accepted(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed(monkeypatch, password) == password


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 64, "64 characters, but PostgreSQL keeps only 63"),
        ("pg_app", "PostgreSQL reserves"),
        ("none", "PostgreSQL reserves"),
        ("a b", "not a plain role name"),
    ],
)
def test_a_name_that_postgresql_rejects_is_refused_with_its_own_reason(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        plain.refuse_role(name)
    plain.refuse_role("x" * 63)


def test_a_password_accepted_by_an_older_package_is_reported() -> None:
    long = key.pool_passwd_entry("x" * 200, POOL_KEY)
    (found,) = logins.unreadable({"app": "AESshort", "token": long})
    assert "token is longer than the 79 characters" in found.why
    assert found.fix == "pgpoolctl user set token"


def test_each_reason_for_a_failing_login_has_its_own_fix() -> None:
    rows = [("good", True, False, "SCRAM-SHA-256$"), ("old", True, False, "md50123456789a"),
            ("shut", False, False, "SCRAM-SHA-256$"), ("late", True, True, "SCRAM-SHA-256$"),
            ("bare", True, False, "")]  # fmt: skip
    server = SimpleNamespace(instance=SimpleNamespace(port=5433))
    here: Any = SimpleNamespace(query=lambda *_: rows, server=server)
    entries = dict.fromkeys([*(row[0] for row in rows), "gone"], "")
    found = {fault.why: fault.fix for fault in logins.refused(here, entries)}
    assert found == {
        "old has an md5 password in PostgreSQL, but pgpool-II logs in with SCRAM": "pgpoolctl user set old",
        "the role shut may not log in": typed_sql.psql(5433, 'ALTER ROLE "shut" LOGIN'),
        "the password of late has expired": typed_sql.psql(5433, "ALTER ROLE \"late\" VALID UNTIL 'infinity'"),
        "bare has no password in PostgreSQL": "pgpoolctl user set bare",
        "PostgreSQL has no role gone": "pgpoolctl user set gone, or pgpoolctl user remove gone",
    }
