"""The reason why a PostgreSQL server ended is found wherever its log goes and in any language."""

from __future__ import annotations

import gettext
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgpool_cluster.agent.checks import check_postgresql
from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.ground import paths
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.postgresql import message_catalogs, server_log
from pgpool_cluster.postgresql import postgresql as pg

LOW = "recovery aborted because of insufficient parameter settings"
MAX = "max_connections = 40 is a lower setting than on the primary server."
REASON = f"{LOW}: {MAX}"
TIME = "2026-11-29 06:12:41.302 UTC"
ENGLISH = f"""\
{TIME} [3885] LOG:  starting PostgreSQL 17.6 (Debian 17.6-1)
{TIME} [3917] FATAL:  {LOW}
{TIME} [3917] DETAIL:  {MAX}
{TIME} [3885] LOG:  startup process (PID 3917) exited with exit code 1
"""
JAPANESE = {
    "FATAL": "致命的", "PANIC": "パニック", "DETAIL:  ": "詳細:  ", "starting %s": "%s を起動しています",
    "the database system is starting up": "データベースシステムは起動処理中です",
}  # fmt: skip
CSV = f"""\
{TIME},,,3917,,64f.1,1,,{TIME},,0,LOG,00000,"starting PostgreSQL 17.6",,,,,,,,,"","postmaster",,0
{TIME},,,3917,,64f.1,2,,{TIME},,0,FATAL,XX000,"{LOW}","{MAX}",,,,,,,,"","startup",,0
{TIME},"app","app",3920,"[local]",64f.1,1,,{TIME},,0,FATAL,57P03,"no such ""thing"" here",,,,,,,,,"","client backend",,0
"""


class Catalog(gettext.NullTranslations):
    def gettext(self, message: str) -> str:
        return JAPANESE.get(message, message)


class Machine:
    """A server's possible log files; `journal` is the output of its unit."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = ""
        self.logs, self.data = folder / "logs", folder / "data"
        self.logs.mkdir()
        (self.data / "log").mkdir(parents=True)
        self.own = self.logs / "postgresql-17-main.log"
        self.instance = Instance(PostgresqlCluster(17, "main"), 5432, self.data)
        monkeypatch.setattr(paths, "POSTGRESQL_LOGS", self.logs)
        monkeypatch.setattr(paths, "LOCALES", folder / "locales")
        monkeypatch.setattr("pgpool_cluster.ground.paths.POSTGRESQL_CONFIGURATION", folder / "etc")
        monkeypatch.setattr(subprocess, "run", self._run)
        message_catalogs.words.cache_clear()

    def _run(self, words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert words[0] == "journalctl"
        assert "--unit=postgresql@17-main.service" in words
        return subprocess.CompletedProcess(words, 0, self.journal, "")

    def collects(self, kind: str, name: str, text: str) -> None:
        path = self.data / "log" / name
        path.write_text(text, encoding="utf-8")
        with (self.data / "current_logfiles").open("a", encoding="ascii") as stream:
            stream.write(f"{kind} log/{name}\n")

    @property
    def said(self) -> str:
        return server_log.last_words(self.instance)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_found_in_debians_log_file(machine: Machine) -> None:
    machine.own.write_text(ENGLISH)
    assert machine.said == REASON


def test_found_in_a_file_of_the_collector(machine: Machine) -> None:
    """Debian's own file then has only `redirecting log output`."""
    machine.own.write_text(f"{TIME} [3885] LOG:  redirecting log output to logging collector process\n")
    os.utime(machine.own, (1, 1))
    machine.collects("stderr", "postgresql-Sun.log", ENGLISH)
    assert machine.said == REASON


def test_found_in_a_csv_file_without_messages_to_clients(machine: Machine) -> None:
    machine.collects("csvlog", "postgresql-Sun.csv", CSV)
    assert machine.said == REASON


def test_found_in_a_json_file(machine: Machine) -> None:
    lines = [
        {"error_severity": "FATAL", "message": LOW, "detail": MAX, "backend_type": "startup"},
        {"error_severity": "FATAL", "message": "no", "user": "app"},
        {"error_severity": "LOG", "message": "x"},
    ]
    machine.collects("jsonlog", "postgresql-Sun.json", "".join(f"{json.dumps(line)}\n" for line in lines))
    assert machine.said == REASON


def test_found_in_the_journal_if_syslog_is_the_destination(machine: Machine) -> None:
    machine.own.write_text(f"{TIME} [1] LOG:  ending log output to stderr\n")
    os.utime(machine.own, (1, 1))
    machine.journal = (
        f"1795932761.1 pg2 postgres[3917]: [5-1] FATAL:  {LOW}\n1795932761.2 pg2 postgres[3917]: [5-2] DETAIL:  {MAX}\n"
        "1795932761.3 pg2 systemd[1]: postgresql@17-main.service: Failed with result 'protocol'.\n"
    )
    assert machine.said == REASON


@pytest.mark.parametrize("encoding", ["utf-8", "euc_jp"])
def test_found_in_another_language(
    encoding: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    catalog = tmp_path / "locales" / "ja" / "LC_MESSAGES" / "postgres-17.mo"
    catalog.parent.mkdir(parents=True)
    catalog.touch()
    monkeypatch.setattr(gettext, "GNUTranslations", lambda _: Catalog())
    said = (
        f"{TIME} [1] LOG:  PostgreSQL 17.6 を起動しています\n{TIME} [9] 致命的:  設定が足りません\n"
        f"{TIME} [9] 詳細:  max_connections = 40\n{TIME} [10] 致命的:  データベースシステムは起動処理中です\n"
    )
    machine.own.write_bytes(said.encode(encoding))
    assert machine.said == "設定が足りません: max_connections = 40"


def test_neither_an_earlier_run_nor_a_message_to_a_client_counts(machine: Machine) -> None:
    """A standby that did not receive used to be reported with a reason from days ago."""
    machine.own.write_text(
        f"{ENGLISH}{TIME} [4000] LOG:  starting PostgreSQL 17.6 (Debian 17.6-1)\n"
        f"{TIME} [4001] FATAL:  the database system is starting up\n"
        f'{TIME} [4002] app@app FATAL:  password authentication failed for user "app"\n'
    )
    assert machine.said == ""


def test_without_a_log_there_is_no_reason(machine: Machine) -> None:
    assert machine.said == ""


def test_an_error_in_the_configuration_is_reported_with_its_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says `configuration file "…" contains errors`, in any language, but not which errors."""
    said = (
        f'{TIME} [9] LOG:  unrecognized configuration parameter "x" in file "/etc/postgresql.conf" line 3\n'
        f'{TIME} [9] FATAL:  configuration file "/etc/postgresql.conf" contains errors\n'
    )
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 1, "", said))
    reason = 'unrecognized configuration parameter "x" in file "/etc/postgresql.conf" line 3'
    assert pg.fault(machine.instance) == reason


@pytest.mark.parametrize(
    ("state", "shown"),
    [(Postgresql.DOWN, f"down: {REASON}"), (Postgresql.STARTING, "starting: no role postgres"),
     (Postgresql.STOPPED, "stopped"), (Postgresql.UP, "")],
)  # fmt: skip
def test_check_reports_why_a_server_is_not_up(state: Postgresql, shown: str, machine: Machine) -> None:
    """It used to report `down`, with `systemctl start` as the fix."""
    machine.own.write_text(ENGLISH)
    database: Any = SimpleNamespace(instance=machine.instance, refused="no role postgres\nHINT: more")
    assert check_postgresql.not_up(state, database) == shown
