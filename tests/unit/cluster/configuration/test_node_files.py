"""The files of this node: rendered from the definition, the key, the record and the machine's own files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from tests.unit.cluster.rendered import KEY, SERVER, THREE, WITNESS, cluster_of, settings_of

from pgpool_cluster.configuration import key_file, node_files, pool_key
from pgpool_cluster.configuration.rehearsal import before
from pgpool_cluster.configuration.rendering import rendered_paths, rendering
from pgpool_cluster.configuration.rendering.rendered_file import File, FileShare
from pgpool_cluster.configuration.rendering.rendering import render
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.definition import key as keys
from pgpool_cluster.definition.cluster import Cluster, Node, PostgresqlCluster
from pgpool_cluster.definition.key import ClusterKey
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import UsageError
from pgpool_cluster.machine import hands, own, pgpool, server
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server_facts import ServerFacts

STUBS = set(rendered_paths.STUBS)


class Machine:
    """A node's machine. `another`: pgpool-II runs with a previous cluster key, whose pool key is "old"."""

    def __init__(self, place: Path) -> None:
        self.home, self.data, self.etc = place / "home", place / "data", place / "etc"
        for folder in (self.home, self.data, self.etc):
            folder.mkdir()
        self.facts = replace(SERVER, data_directory=str(self.data), home=str(self.home))
        self.text, self.node = THREE, "pg1"
        self.notes: tuple[str, ...] = ()
        self.another = False
        self.asked: dict[str, object] = {}
        self.used = self.facts
        """The facts for which the files were rendered."""

    @property
    def drop_in(self) -> Path:
        return self.etc / "17" / "main" / "conf.d" / "pgpool2-cluster.conf"

    def this_node(self) -> tuple[Cluster, Node, tuple[str, ...]]:
        cluster = cluster_of(self.text)
        return cluster, cluster.named(self.node), self.notes

    def server_facts(self, *_: object, **asked: object) -> ServerFacts:
        self.asked = asked
        return self.facts

    def few(self, _: Cluster, key: ClusterKey, __: Node, facts: ServerFacts, ___: Path) -> tuple[File, ...]:
        """Return only the files that are treated in a special way; the templates of all take long."""
        self.used = facts
        entries = f"pgpool_check:{keys.pool_passwd_entry('check', key.pool_key)}\n".encode()
        passwd = rendered_paths.FOLDER / "pool_passwd"
        return (
            *(File(PurePosixPath(facts.data_directory) / name, b"#!", "me", "me", 0o700) for name in sorted(STUBS)),
            File(PurePosixPath(facts.home) / ".pgpoolkey", f"{key.pool_key}\n".encode(), "me", "me", 0o600),
            File(passwd, entries, "me", "me", 0o600, FileShare.ENTRIES),
        )

    def render(self) -> dict[str, bytes]:
        return {file.path.name: file.content for file in node_files.render()[0]}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Machine(tmp_path)
    for name in ("RECORD", "USERS", "AUTHORITIES", "SERVER_CERTIFICATE", "HEARTBEAT_KEY"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "POSTGRESQL_CONFIGURATION", found.etc)
    monkeypatch.setattr(pool_key, "POOL_KEY", found.home / ".pgpoolkey")
    monkeypatch.setattr(hands, "_done", lambda request, _: hands.perform(request))
    monkeypatch.setattr(server, "this_node_looked_up", found.this_node)
    monkeypatch.setattr(server, "facts", found.server_facts)
    monkeypatch.setattr(key_file, "read", lambda: KEY)
    monkeypatch.setattr(before, "refuse", lambda *_: None)
    monkeypatch.setattr(pgpool, "of_another_key", lambda key: found.another and key == KEY.fingerprint)
    monkeypatch.setattr(rendering, "render", found.few)
    return found


@pytest.fixture
def whole(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same machine, with all of its files."""
    monkeypatch.setattr(rendering, "render", render)
    return machine


def test_recovery_programs_are_rendered_only_into_existing_data(machine: Machine) -> None:
    """A folder with a file in it would make pg_createcluster and the first clone fail."""
    assert STUBS.isdisjoint(machine.render())
    (machine.data / "PG_VERSION").write_text("17\n")
    assert set(machine.render()) > STUBS


def test_a_witness_has_no_files_of_postgresql(whole: Machine) -> None:
    machine = whole
    machine.text, machine.node = WITNESS, "w"
    machine.facts = replace(machine.facts, data_directory="", postgresql=PostgresqlCluster(0, "none"))
    found = set(machine.render())
    assert {"pgpool.conf", ".pgpoolkey"} < found
    assert found.isdisjoint({*STUBS, "pg_hba.conf", "server.pem"})


def test_names_that_do_not_resolve_are_reported_and_not_mixed_with_the_output(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output of `pgpoolctl apply --check` may be read by a program."""
    machine.notes = ("pg2.lan does not resolve; its last address applies",)
    assert machine.render()
    shown = capsys.readouterr()
    assert machine.notes[0] in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(("proven", "keys_kept"), [("another", 2), (KEY.fingerprint, 1)])
def test_the_former_heartbeat_key_stays_while_the_key_is_being_changed(
    proven: str, keys_kept: int, whole: Machine
) -> None:
    Record(system=7, proven=proven).save(paths.RECORD)
    paths.HEARTBEAT_KEY.write_text("f" * 64 + "\n")
    assert whole.render()["heartbeat_key"].decode().split() == [KEY.heartbeat_key, "f" * 64][:keys_kept]
    paths.HEARTBEAT_KEY.write_bytes(b"\xff not a key\n")
    assert whole.render()["heartbeat_key"].decode().split() == [KEY.heartbeat_key]


def test_the_record_decides_on_the_settings(whole: Machine) -> None:
    record = Record(
        system=7, standbys_came=True, dropped=("pg3",), upgrading="17/main", logical=True,
        needs=(("max_prepared_transactions", 40), ("port", 1)), libraries=("pg_stat_statements", "a'b"),
    )  # fmt: skip
    record.save(paths.RECORD)
    files = {str(file.path): file for file in node_files.render()[0]}
    settings = settings_of(files[str(whole.drop_in)].content.decode())
    assert whole.asked == {"standbys_came": True, "dropped": ("pg3",), "upgrading": "17/main"}
    assert settings["wal_level"] == "logical"
    assert settings["max_prepared_transactions"] == "40"
    assert settings["shared_preload_libraries"] == "pg_stat_statements", "postgres can edit the record"
    assert "port" not in settings


@pytest.mark.parametrize(
    ("system", "laid", "found"), [(None, "300", "900"), (7, "300", "300"), (7, "", "900")],
    ids=["not yet a member", "a member", "a member without the file"],
)  # fmt: skip
def test_a_members_own_settings_are_limited_to_those_that_its_cluster_has(
    machine: Machine, system: int | None, laid: str, found: str
) -> None:
    """A primary whose max_connections suddenly rose would stop the replay of its standbys."""
    machine.facts = replace(machine.facts, own=own.Own({"max_connections": "900"}))
    machine.drop_in.parent.mkdir(parents=True)
    if laid:
        machine.drop_in.write_text(f"max_connections = {laid}\n")
    Record(system=system).save(paths.RECORD)
    machine.render()
    assert machine.used.own.values["max_connections"] == found


@pytest.mark.parametrize("place", ["home", "data", "tablespace", "none"])
def test_units_may_see_home_only_if_postgresql_has_something_there(machine: Machine, place: str) -> None:
    if place == "home":
        machine.facts = replace(machine.facts, home="/home/postgres")
    if place == "data":
        machine.facts = replace(machine.facts, data_directory="/home/postgres/17")
    if place == "tablespace":
        (machine.data / "pg_tblspc").mkdir()
        (machine.data / "pg_tblspc" / "16400").symlink_to("/home/postgres/fast")
    machine.render()
    assert machine.used.below_home is (place != "none")


def test_a_pgpool_with_the_previous_key_keeps_key_and_entries_that_fit_together(machine: Machine) -> None:
    sam = keys.pool_passwd_entry("secret", "old")
    (machine.home / ".pgpoolkey").write_text("old\n")
    Users(1, {"sam": sam}, keys.mark("old")).save(paths.USERS)
    machine.another = True
    found = machine.render()
    assert found[".pgpoolkey"] == b"old\n"
    assert found["pool_passwd"].endswith(f"sam:{sam}\n".encode())
    machine.another = False
    found = machine.render()
    assert found[".pgpoolkey"] == f"{KEY.pool_key}\n".encode()
    assert found["pool_passwd"].endswith(f"sam:{keys.pool_passwd_entry('secret', KEY.pool_key)}\n".encode())


def test_a_refused_first_installation_yields_no_files(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("nothing is changed on this server: wal_level", hint="ALTER SYSTEM RESET wal_level")

    monkeypatch.setattr(before, "refuse", refuse)
    with pytest.raises(UsageError, match="nothing is changed"):
        machine.render()
