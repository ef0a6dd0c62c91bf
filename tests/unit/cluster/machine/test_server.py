"""The selection of the cluster's server among a machine's PostgreSQL servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import programs
from pgpool_cluster.ground.errors import UsageError
from pgpool_cluster.machine import server
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


@pytest.mark.parametrize("minor", [3, 4, 5])
def test_an_ipv4_only_watchdog_is_refused_with_the_line(minor: int) -> None:
    six = parse("nodes:\n  pg1: fd00::1\n  pg2: fd00::2\n", "cluster.yml", "pg1")
    with pytest.raises(UsageError, match=r"cluster.yml:2: pg1 has an IPv6 address; the watchdog of pgpool-II 4"):
        server.refuse_ipv6_watchdog(six, PgpoolVersion(4, minor))
    server.refuse_ipv6_watchdog(six, PgpoolVersion(4, 6))
    alone = parse("nodes: {pg1: fd00::1}\n", "cluster.yml", "pg1")
    server.refuse_ipv6_watchdog(alone, PgpoolVersion(4, minor))
    server.refuse_ipv6_watchdog(parse(VIRTUAL, "cluster.yml", "pg1"), PgpoolVersion(4, minor))


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
