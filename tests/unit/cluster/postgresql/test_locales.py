"""A missing locale is reported, with the commands to generate it, before a copy would reject every login."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest

from pgpool_cluster.copying import copy_source
from pgpool_cluster.decision.facts.facts import NodeFacts, Postgresql
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.node import notes
from pgpool_cluster.node.node import Here
from pgpool_cluster.postgresql import database as databases
from pgpool_cluster.postgresql import locales
from pgpool_cluster.transport.peers import Peers

CLUSTER = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg2")
ENGLISH = """\
connection to server on socket "/var/run/postgresql/.s.PGSQL.5432" failed: FATAL:  database locale is incompatible \
with operating system
DETAIL:  The database was initialized with LC_COLLATE "de_DE.UTF-8",  which is not recognized by setlocale().
HINT:  Recreate the database with another locale or install the missing locale.
"""
SPANISH = """\
FATAL:  la configuración regional es incompatible con el sistema operativo
DETALLE:  La base de datos fue inicializada con LC_CTYPE «de_DE.UTF-8», el cual no es reconocido por setlocale().
"""


class _Cursor:
    def __init__(self, *names: str) -> None:
        self.names = names

    def execute(self, *_: object) -> None: ...

    def fetchall(self) -> list[tuple[str]]:
        return [(name,) for name in self.names]


def test_a_copy_that_would_refuse_every_login_is_refused_in_advance() -> None:
    """Such standbys used to stream and stay `starting`, and check suggested `pgpoolctl apply`."""
    source = CLUSTER.named("pg1")
    copy_source._check_locales(source, _Cursor("C", "C.UTF-8", "POSIX"))
    with pytest.raises(OperationError, match=r"this machine has no locale xx_YY\.UTF-8") as caught:
        copy_source._check_locales(source, _Cursor("C", "xx_YY.UTF-8"))
    assert "printf '%s\\n' 'xx_YY.UTF-8 UTF-8' >>/etc/locale.gen; locale-gen" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "line"),
    [("de_DE.utf8", "'de_DE.UTF-8 UTF-8'"), ("de_DE", "'de_DE ISO-8859-1'"), ("de_DE@euro", "'de_DE@euro ISO-8859-15'"),
     ("sr_RS.UTF-8@latin", "'sr_RS.UTF-8@latin UTF-8'"), ("ru_RU.KOI8-R", "'ru_RU.KOI8-R KOI8-R'")],
)  # fmt: skip
def test_the_line_for_locale_gen(name: str, line: str) -> None:
    assert line in locales.making([name])


@pytest.mark.parametrize("said", [ENGLISH, SPANISH])
def test_a_missing_locale_is_recognized_in_any_language(said: str) -> None:
    assert locales.refused(said) == "de_DE.UTF-8"


@pytest.mark.parametrize("said", ["", "FATAL:  the database system is starting up", "No such file or directory"])
def test_other_reasons_are_not_attributed_to_locales(said: str) -> None:
    assert locales.refused(said) == ""


@pytest.mark.parametrize(("major", "has"), [(13, False), (14, False), (15, True), (18, True)])
def test_the_collation_version_is_queried_where_the_major_stores_it(major: int, has: bool) -> None:
    asked: Any = locales.versions(Instance(PostgresqlCluster(major, "main"), 5432, Path("/srv")))
    assert ("datcollversion" in asked) is has


def test_a_server_that_refuses_all_logins_is_reported_after_the_time_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to stay `starting` without a message for as long as every login failed."""
    now = [100.0]
    said = ['FATAL:  role "postgres" is not permitted to log in']

    def refuse(*_: object) -> None:
        raise psycopg2.OperationalError(said[0])

    database = databases.Database(Instance(PostgresqlCluster(17, "main"), 5432, tmp_path))
    (tmp_path / "PG_VERSION").write_text("17\n")
    monkeypatch.setattr(databases.Database, "_asked", refuse)
    monkeypatch.setattr(databases.Database, "_from_files", lambda _, facts: facts)
    monkeypatch.setattr(databases.Database, "_why_down", lambda *_: Postgresql.STARTING)
    monkeypatch.setattr("pgpool_cluster.postgresql.database.time.monotonic", lambda: now[0])
    database.look(NodeFacts("pg2"), CLUSTER)
    assert database.shut == ""
    now[0] += 20
    database.look(NodeFacts("pg2"), CLUSTER)
    here = Here(CLUSTER, CLUSTER.named("pg2"), database, Peers({}), Record(system=7))
    assert notes.own(here).startswith(f"PostgreSQL rejects the agent's login: {said[0]}; hint: ")
    said[0] = ENGLISH
    database.look(NodeFacts("pg2"), CLUSTER)
    assert notes.own(here).startswith("PostgreSQL rejects every login: this machine has no locale de_DE.UTF-8; hint: ")
    monkeypatch.setattr(databases.Database, "_why_down", lambda *_: Postgresql.DOWN)
    database.look(NodeFacts("pg2"), CLUSTER)
    assert notes.own(here) == ""
