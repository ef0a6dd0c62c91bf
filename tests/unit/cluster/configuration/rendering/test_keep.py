"""A server keeps its tuning from before it joined the cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cluster.rendered import SERVER, THREE, files, settings_of, text_of

from pgpool_cluster.configuration.rendering import keep
from pgpool_cluster.machine import own
from pgpool_cluster.machine.own import Own
from pgpool_cluster.machine.record import Record

CONF = "/etc/postgresql/17/main/conf.d/pgpool2-cluster.conf"
NATIVE = f"mode: native_replication\n{THREE}"


def laid_down(text: str = THREE, *, needs: str = "", **values: str) -> dict[str, str]:
    """Return the cluster's parameters for a server with these own files; `needs`: worker processes of its primary."""
    found = {"max_worker_processes": int(needs or 0), "max_locks_per_transaction": 64, "max_prepared_transactions": 50}
    server = replace(SERVER, own=Own(values), needs=found if needs else {})
    return settings_of(text_of(CONF, files(text, server=server)))


def test_higher_values_and_logical_replication_are_kept() -> None:
    """PostgreSQL used not to restart if a logical slot existed, because wal_level became replica."""
    tuned = {"wal_level": "logical", "max_wal_senders": "65", "max_replication_slots": "50", "max_connections": "900"}
    found = laid_down(**tuned)
    assert {name: found[name] for name in tuned} == tuned


@pytest.mark.parametrize("text", [THREE, NATIVE])
def test_lower_values_are_replaced_by_the_clusters(text: str) -> None:
    low = {"wal_level": "minimal", "max_wal_senders": "0", "max_connections": "20", "max_replication_slots": "'x'"}
    found = laid_down(text, **low)
    assert (found["wal_level"], found["max_wal_senders"]) == ("replica", "16")
    assert int(found["max_connections"]) > 100


@pytest.mark.parametrize(
    ("own_value", "kept"), [("-1", "-1"), ("900GB", "900GB"), ("100 GB", "100 GB"), ("1MB", "128MB")]
)
def test_a_larger_max_slot_wal_keep_size_is_kept(own_value: str, kept: str) -> None:
    """Otherwise the slot of a lagging subscriber would become invalid at the next checkpoint."""
    assert laid_down(max_slot_wal_keep_size=own_value)["max_slot_wal_keep_size"] == kept


def test_a_standby_gets_the_higher_values_of_a_tuned_primary() -> None:
    found = laid_down(needs="32", max_prepared_transactions="60")
    assert found["max_worker_processes"] == "32"
    assert not {"max_locks_per_transaction", "max_prepared_transactions"} & set(found)
    assert "shared_preload_libraries" not in found


def test_libraries_of_the_primary_are_preloaded_beside_a_servers_own() -> None:
    server = replace(SERVER, own=Own({"shared_preload_libraries": "auto_explain"}), libraries=("pg_stat_statements",))
    found = settings_of(text_of(CONF, files(server=server)))
    assert found["shared_preload_libraries"] == "auto_explain, pg_stat_statements"


@pytest.mark.parametrize(
    "command",
    ["pgbackrest --stanza=main archive-push %p", "barman-wal-archive b pg1 %p", "wal-g wal-push '%p'", r"a\t \\ %p #"],
)
def test_an_existing_archive_command_continues_to_run(command: str) -> None:
    server = replace(SERVER, own=Own({"archive_mode": "on", "archive_command": command}))
    found = dict(own.lines(text_of(CONF, files(NATIVE, server=server))))["archive_command"]
    assert found == f"/usr/lib/pgpool2-cluster/archive-wal %p %f && ( {command}\n)"
    assert keep.limited_to_laid(server.own, {"archive_command": found}).values["archive_command"] == command
    assert "archive_command" not in laid_down(archive_mode="on", archive_command=command)
    assert "&&" not in laid_down(NATIVE, archive_mode="off", archive_command=command)["archive_command"]


def test_a_member_gets_no_higher_values_than_it_joined_with() -> None:
    """Its standbys have no higher values, so their replay would stop. An inactive archive_command stays inactive."""
    mine = Own({"max_connections": "900", "max_wal_senders": "20", "archive_mode": "on", "archive_command": "true"})
    older = {"max_connections": "404", "archive_command": "archive-wal %p %f"}
    assert keep.limited_to_laid(mine, older).values == {
        "max_connections": "404",
        "max_wal_senders": "20",
        "archive_mode": "on",
    }
    assert keep.limited_to_laid(mine, laid_down(NATIVE, **mine.values)).values["archive_command"] == "true"
    assert keep.limited_to_laid(mine, laid_down(**mine.values)).number("max_connections") == 900


def test_the_files_of_a_server_are_read_as_postgresql_reads_them(tmp_path: Path) -> None:
    """The cluster's own file is not read; lines after its include override it."""
    (tmp_path / "conf.d").mkdir()
    for name, text in {
        "postgresql.conf": "wal_level = replica # x\nWork_Mem '4MB'\ninclude_dir = 'conf.d'\nmax_wal_senders 5\n",
        "conf.d/00.conf": "wal_level=logical\narchive_command = 'cp %p ''/x y''/%f'   # it's\ninclude_if_exists 'no'\n",
        "conf.d/pgpool2-cluster.conf": "wal_level = replica\nmax_connections = 404\n",
        "conf.d/zz.conf": "max_locks_per_transaction = '256'\n",
        "conf.d/.hidden.conf": "work_mem = 1\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert own.lines(r"archive_command = 'a\tb\\c\047d'") == [("archive_command", "a\tb\\c'd")]
    (tmp_path / "link").write_text("work_mem = 8MB\n")
    (tmp_path / "conf.d" / "linked.conf").symlink_to(tmp_path / "link")
    found = own.of_server(tmp_path)
    assert found.includes
    assert found.values == {
        "wal_level": "logical", "work_mem": "8MB", "archive_command": "cp %p '/x y'/%f", "max_wal_senders": "5",
        "max_locks_per_transaction": "256",
    }  # fmt: skip
    assert found.later == {"max_locks_per_transaction", "max_wal_senders"}
    (tmp_path / "postgresql.conf").write_text("include 'postgresql.conf'\nport = 5433\n")
    assert own.of_server(tmp_path) == Own({"port": "5433"}, includes=False)
    (tmp_path / "postgresql.conf").write_text(f"include_dir '../{tmp_path.name}/conf.d'\n")
    assert own.of_server(tmp_path).includes


@pytest.mark.parametrize(("text", "number"), [("32 ", 32), ("0x20", 32), ("+300", 300), ("5MB", 0), ("-1", 0)])
def test_numbers_are_read_as_postgresql_does(text: str, number: int) -> None:
    assert Own({"max_connections": text}).number("max_connections") == number


def test_a_record_keeps_the_needs_of_the_primary(tmp_path: Path) -> None:
    record = Record(needs=(("max_worker_processes", 32),), libraries=("pg_stat_statements",))
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == record
