"""The selection of the cluster's server among a machine's PostgreSQL servers."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths, programs
from pgpool_cluster.ground.errors import ServerError, UsageError
from pgpool_cluster.ground.programs import LateProgramError
from pgpool_cluster.machine import hands, server
from pgpool_cluster.machine.network import addresses
from pgpool_cluster.machine.server import Instance, choose_instance
from pgpool_cluster.machine.server_facts import PgpoolVersion

NODES = "nodes: {pg1: 10.0.0.1, pg2: {address: 10.0.0.2, port: 5433}}\n"


def chosen(text: str, node: str, *found: tuple[str, int]) -> str:
    cluster = parse(text + NODES, "cluster.yml", node)
    names = [parse(f"postgresql: {name}\n", "cluster.yml", node).postgresql for name, _ in found]
    instances = [Instance(name, port, Path("/srv")) for name, (_, port) in zip(names, found, strict=True) if name]
    return str(choose_instance(cluster, instances, cluster.named(node)).name)


@pytest.mark.parametrize(
    ("node", "found", "name"),
    [("pg1", [("17/main", 5433), ("15/main", 5432)], "15/main"),  # after a dist-upgrade
     ("pg1", [("17/main", 5432), ("15/main", 5433)], "17/main"),  # after pg_upgradecluster
     ("pg2", [("17/main", 5433), ("15/main", 5432)], "17/main"),
     ("pg1", [("15/main", 5432)], "15/main")],
)  # fmt: skip
def test_the_clusters_server_is_the_one_with_the_nodes_port(node: str, found: list[tuple[str, int]], name: str) -> None:
    assert chosen("", node, *found) == name


@pytest.mark.parametrize(
    ("text", "found", "said"),
    [("postgresql: 17\n", [("17/main", 5433), ("15/main", 5432)], "PostgreSQL 17/main has port 5433, not 5432"),
     ("", [("17/main", 5434), ("15/main", 5435)], "PostgreSQL 17/main has port 5434, not 5432"),
     ("postgresql: 16\n", [("17/main", 5432)], "this machine has no PostgreSQL 16/main")],
)  # fmt: skip
def test_a_named_server_that_does_not_fit_is_reported(text: str, found: list[tuple[str, int]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(text, "pg1", *found)


def test_a_data_directory_unusable_for_recovery_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """pgpool-II's recovery function passes it to a shell without quotes."""
    rows = """\
15  main 5433 online postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log
17  main 5432 online postgres /srv/my  data/main          /var/log/postgresql/postgresql-17-main.log
"""
    monkeypatch.setattr(programs, "run", lambda *_, **__: rows)
    found = server.instances(5432)
    assert [str(one.data) for one in found] == ["/srv/my data/main", "/var/lib/postgresql/15/main"]
    cluster = parse(NODES, "cluster.yml", "pg1")
    with pytest.raises(UsageError, match="PostgreSQL 17/main has its data in '/srv/my data/main', which is not"):
        choose_instance(cluster, found, cluster.named("pg1"))
    assert str(choose_instance(cluster, found, cluster.named("pg2")).name) == "15/main"


def test_no_content_of_postgresql_conf_stops_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = """\
15  main x'y online postgres /var/lib/postgresql/15/main /var/log/postgresql/postgresql-15-main.log
17  main 5432 online postgres /srv/it's /var/log/postgresql/postgresql-17-main.log
"""
    monkeypatch.setattr(programs, "run", lambda *_, **__: rows)
    assert [str(one.name) for one in server.instances(5432)] == ["17/main"]
    cluster = parse(NODES, "cluster.yml", "pg1")
    with pytest.raises(UsageError, match="not a plain path"):
        server._instance(cluster, cluster.named("pg1"), "17/main")


def test_a_folder_that_root_cannot_enter_stops_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """postgres may have mounted a file system there that only postgres can access (FUSE)."""
    stat = os.stat

    def refusing(path: str | Path | int, **options: Any) -> os.stat_result:
        if str(path).endswith("pg_wal"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    assert server.size_of_disk(tmp_path / "pg_wal") > 0


VIRTUAL = """\
nodes:
  pg1: 10.0.0.1
  pg2: {address: 10.0.0.2, runs: [postgresql]}
  pg3: 10.0.0.3
virtual_ip: 10.0.0.50/24
"""


def test_a_virtual_address_that_has_no_interface_is_refused_with_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = '[{"ifname": "lo", "addr_info": []}, {"ifname": "eth1", "addr_info": [{"local": "10.0.0.3"}]}]'
    monkeypatch.setattr(programs, "run", lambda *_, **__: listed)
    cluster = parse(VIRTUAL, "cluster.yml", "pg1")
    assert server._interface(cluster, cluster.named("pg3")) == "eth1"
    assert server._interface(cluster, cluster.named("pg2")) == ""  # it has no pgpool-II to use the address
    with pytest.raises(UsageError, match=r"cluster.yml:2: no interface of this machine has the address of pg1, "):
        server._interface(cluster, cluster.named("pg1"))


SIX = "nodes:\n  pg1: fd00::1\n  pg2: fd00::2\n"


@pytest.mark.parametrize("minor", [3, 4, 5])
def test_an_ipv4_only_watchdog_is_refused_with_the_line(minor: int) -> None:
    six = parse(f"{SIX}mode: native_replication\n", "cluster.yml", "pg1")
    with pytest.raises(UsageError, match=r"cluster.yml:2: pg1 has an IPv6 address; the watchdog of pgpool-II 4"):
        server.refuse_ipv6_watchdog(six, PgpoolVersion(4, minor))
    server.refuse_ipv6_watchdog(six, PgpoolVersion(4, 6))
    server.refuse_ipv6_watchdog(parse(SIX, "cluster.yml", "pg1"), PgpoolVersion(4, minor))  # it has no watchdog
    alone = parse("mode: native_replication\nnodes: {pg1: fd00::1}\n", "cluster.yml", "pg1")
    server.refuse_ipv6_watchdog(alone, PgpoolVersion(4, minor))
    four = parse(f"{VIRTUAL}mode: native_replication\n", "cluster.yml", "pg1")
    server.refuse_ipv6_watchdog(four, PgpoolVersion(4, minor))


def test_a_server_with_an_unsuitable_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message used to be that this machine had no PostgreSQL server, with a hint to create one."""
    row = "17  Main 5432 online postgres /var/lib/postgresql/17/Main /var/log/postgresql/postgresql-17-Main.log\n"
    monkeypatch.setattr(programs, "run", lambda *_, **__: row)
    with pytest.raises(UsageError, match="PostgreSQL 17/Main has a name") as caught:
        server.instances(5432)
    assert "pg_renamecluster 17 Main main" in caught.value.hint
    monkeypatch.setattr(programs, "run", lambda *_, **__: row + row.replace("Main", "main").replace("5432", "5433"))
    assert [str(one.name) for one in server.instances(5433)] == ["17/main"]
    with pytest.raises(UsageError, match="PostgreSQL 17/Main has a name") as caught:
        server.instances(5432)
    assert "pg_renamecluster 17 Main main2" in caught.value.hint


class Machine:
    """A machine called pg1 with programs: `outputs` by name; an exception is raised."""

    def __init__(self) -> None:
        row = "17 main 5432 online postgres /srv/17/main /var/log/postgresql/postgresql-17-main.log\n"
        self.outputs: dict[str, str | Exception] = {
            "pg_lsclusters": row, "pgpool": "pgpool-II version 4.6.1 (tasukiboshi)\n", "ssh-keygen": "", "getent": "",
            "ip": '[{"ifname": "eth1", "addr_info": [{"local": "10.0.0.1"}]}]', "find": "",
        }  # fmt: skip
        self.ran: list[str] = []

    def attempt(self, words: Sequence[str], **_: object) -> programs.Ended:
        plain = [word for word in words if not word.startswith("-") and word not in ("setpriv", "address")]
        name = Path(plain[0]).name
        self.ran.append(name)
        found = self.outputs[name]
        if isinstance(found, Exception):
            raise found
        if name == "ssh-keygen":
            paths.HOST_KEY.write_text("ssh-ed25519 AAAA host\n")
        return subprocess.CompletedProcess(list(words), 0, found, "")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Machine()
    monkeypatch.setattr(programs, "attempt", found.attempt)
    monkeypatch.setattr(socket, "gethostname", lambda: "PG1")
    for name in ("CLUSTER_YML", "HOST_KEY", "HOSTS", "POSTGRESQL_CONFIGURATION", "POSTGRESQL_PROGRAMS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(hands, "_done", lambda request, _: hands.perform(request))
    return found


NAMED = "nodes:\n  pg1: 10.0.0.1\n  pg2: pg2.lan\n"


def test_a_node_is_known_without_a_name_server(machine: Machine) -> None:
    """The agent must start while no name server answers."""
    paths.CLUSTER_YML.write_text(NAMED)
    cluster, me = server.this_node()
    assert (me.name, cluster.named("pg2").address) == ("pg1", "pg2.lan"), "it stays unresolved"
    assert machine.ran == []


def test_names_are_looked_up_for_the_configuration(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.CLUSTER_YML.write_text(NAMED)
    machine.outputs["getent"] = "10.0.0.2 STREAM pg2.lan\n"
    cluster, me, notes = server.this_node_looked_up()
    assert (me.address, cluster.named("pg2").address, notes) == ("10.0.0.1", "10.0.0.2", ())
    machine.outputs["getent"] = ""
    with pytest.raises(UsageError, match=r":3: pg2.lan, the address of pg2, is not found"):
        server.this_node_looked_up()
    monkeypatch.setattr(addresses, "laid", lambda: {"pg2.lan": "10.0.0.2"})
    cluster, _, notes = server.this_node_looked_up()
    assert cluster.named("pg2").address == "10.0.0.2"
    assert notes == ("pg2.lan, the address of pg2, is not found: keeping 10.0.0.2",)


def test_a_machine_that_is_not_in_the_cluster_is_reported_with_the_names_of_the_nodes(machine: Machine) -> None:
    paths.CLUSTER_YML.write_text(NAMED.replace("pg1", "db1"))
    with pytest.raises(UsageError, match="no node is called pg1") as caught:
        server.this_node()
    assert "the nodes are db1, pg2" in caught.value.hint


@pytest.mark.parametrize("user", [0, 26])
def test_only_root_changes_its_user(user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: user)
    words = server.as_postgres()
    assert ("--reuid=postgres" in words) is (user == 0)
    assert ("--reset-env" in words) is (user == 0), "postgres' processes could read root's environment"


def test_a_fifo_that_blocks_pg_lsclusters_is_named(machine: Machine) -> None:
    machine.outputs["pg_lsclusters"] = LateProgramError("pg_lsclusters", "it did not end within 10 s")
    with pytest.raises(ServerError, match="it did not end within 10 s"):
        server.instances(5432)
    machine.outputs["find"] = "/etc/postgresql/17/main/start.conf\n"
    with pytest.raises(ServerError, match=r"/etc/postgresql/17/main/start.conf is not a plain file") as caught:
        server.instances(5432)
    assert caught.value.hint == "rm /etc/postgresql/17/main/start.conf; pgpoolctl apply"


@pytest.mark.parametrize(
    ("majors", "command"),
    [([], "apt install postgresql"), (["9.6"], "apt install postgresql"), (["15", "17"], "pg_createcluster 17 main")],
)
def test_a_machine_without_a_server_gets_the_command_that_creates_one(
    machine: Machine, majors: list[str], command: str
) -> None:
    for major in majors:
        (paths.POSTGRESQL_PROGRAMS / major).mkdir(parents=True)
    with pytest.raises(UsageError, match="this machine has no PostgreSQL server") as caught:
        chosen("", "pg1")
    assert caught.value.hint == f"{command}; the agent then continues automatically"


@pytest.mark.parametrize("printed", ["", "segmentation fault\n"])
def test_a_pgpool_of_unknown_version_is_reported(machine: Machine, printed: str) -> None:
    assert server.pgpool_version() == PgpoolVersion(4, 6)
    machine.outputs["pgpool"] = printed
    with pytest.raises(ServerError, match="pgpool --version prints") as caught:
        server.pgpool_version()
    assert caught.value.hint == "apt install pgpool2"


def test_the_facts_of_a_node_name_its_server_and_the_interface_of_its_address(machine: Machine) -> None:
    """sshd creates its host keys only when it is installed; an image may come without them."""
    cluster = parse(VIRTUAL, "cluster.yml", "pg1")
    found = server.facts(cluster, cluster.named("pg1"), standbys_came=True, dropped=("pg3",))
    assert (str(found.postgresql), found.pgpool, found.interface) == ("17/main", PgpoolVersion(4, 6), "eth1")
    assert (found.data_directory, found.host_key) == ("/srv/17/main", "ssh-ed25519 AAAA host\n")
    assert (found.standbys_came, found.dropped) == (True, ("pg3",))
    assert found.wal_disk_bytes > 0
    server.facts(cluster, cluster.named("pg1"), standbys_came=True)
    assert machine.ran.count("ssh-keygen") == 1, "new host keys would make every client refuse the host"


def test_a_node_needs_only_the_programs_of_what_it_runs(machine: Machine) -> None:
    cluster = parse("nodes:\n  pg1: 10.0.0.1\n  w: {address: 10.0.0.9, runs: [pgpool]}\n", "cluster.yml", "w")
    found = server.facts(cluster, cluster.named("w"), standbys_came=False)
    assert (found.data_directory, found.wal_disk_bytes, found.postgresql.major) == ("", 0, 0)
    assert "pg_lsclusters" not in machine.ran
    machine.ran.clear()
    cluster = parse(VIRTUAL, "cluster.yml", "pg2")
    machine.outputs["pg_lsclusters"] = "17 main 5432 online postgres /srv/17/main /var/log/x.log\n"
    assert server.facts(cluster, cluster.named("pg2"), standbys_came=False).interface == ""
    assert "pgpool" not in machine.ran


def test_a_watchdog_for_ipv4_only_is_refused_before_anything_is_rendered(machine: Machine) -> None:
    machine.outputs["pgpool"] = "pgpool-II version 4.3.5 (tamahomeboshi)\n"
    cluster = parse(f"{SIX}mode: native_replication\n", "cluster.yml", "pg1")
    with pytest.raises(UsageError, match="pg1 has an IPv6 address"):
        server.facts(cluster, cluster.named("pg1"), standbys_came=False)


def test_the_new_server_of_a_major_upgrade_is_chosen_before_it_has_the_port(machine: Machine) -> None:
    row = "{0} main {1} online postgres /srv/{0}/main /var/log/x.log\n"
    machine.outputs["pg_lsclusters"] = row.format(15, 5432) + row.format(17, 5433)
    cluster = parse(NODES, "cluster.yml", "pg1")
    for upgrading, found in (("", "15/main"), ("17/main", "17/main"), ("16/main", "15/main")):
        facts = server.facts(cluster, cluster.named("pg1"), standbys_came=False, upgrading=upgrading)
        assert str(facts.postgresql) == found
