"""From debconf's answers, or files that any tool has written, to a cluster with `apt install` as the only command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import INSTALL, Cluster
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.host import Host, together

NAMES = ("pg1", "pg2", "pg3")


@pytest.fixture(scope="module")
def installed(room: Lab, of_release: Images) -> Iterator[Cluster]:
    """Three servers on which the package was installed in parallel; one had no PostgreSQL before."""
    hosts = (*room.boot(of_release.bare, NAMES[0]), *room.boot(of_release.prepared, *NAMES[1:]))
    cluster = Cluster.of(hosts)
    cluster.seed()
    together(lambda host: host.run(INSTALL), hosts)
    yield cluster
    room.remove(hosts)


@pytest.fixture
def hosts(room: Lab, of_release: Images, request: pytest.FixtureRequest) -> Iterator[tuple[Host, ...]]:
    """New hosts with PostgreSQL and pgpool-II, with the names in the test's mark."""
    booted = room.boot(of_release.prepared, *str(request.param).split())
    yield booted
    room.remove(booted)


def on_hosts(names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("hosts", [names], indirect=True)


@pytest.mark.smoke
def test_three_servers_installed_at_once_are_a_healthy_cluster(installed: Cluster) -> None:
    installed.wait_healthy()
    for host in installed.hosts:
        status = installed.status(host)
        assert (status.cluster, status.mode, status.healthy) == ("main", "streaming_replication", True)
        assert [node.address for node in status.nodes.values()] == [host.address for host in installed.hosts]
        assert [node.role for node in status.nodes.values()] == ["primary", "standby", "standby"]
        assert {(node.postgresql, node.pgpool) for node in status.nodes.values()} == {("up", "up")}
        assert sorted(pgpool.state for pgpool in status.pgpools.values()) == ["leader", "standby", "standby"]
        assert len({node.timeline for node in status.nodes.values()}) == 1
    assert installed.writable() == ["pg1"]


@pytest.mark.smoke
def test_check_passes_on_every_node(installed: Cluster) -> None:
    for host in installed.hosts:
        answer = host.attempt("pgpoolctl check")
        assert answer.status == 0, answer.output


@pytest.mark.smoke
def test_a_write_through_any_pgpool_is_on_every_node(installed: Cluster) -> None:
    installed.add_app()
    installed.ask("CREATE TABLE written (through text)", at=installed.hosts[0])
    for host in installed.hosts:
        installed.ask(f"INSERT INTO written VALUES ('{host}')", at=installed.hosts[0], through=host)  # noqa: S608
    assert len(set(installed.checksums().values())) == 1
    rows = installed.hosts[2].psql("SELECT through FROM written ORDER BY 1", database="app")
    assert rows.split() == list(NAMES)


@pytest.mark.thorough
@on_hosts("pg1 pg2 pg3")
def test_files_written_in_advance_and_installed_in_another_order(hosts: tuple[Host, ...]) -> None:
    """The first node's data is kept, although it is installed neither first nor last."""
    cluster = Cluster.of(hosts)
    pg1, pg2, pg3 = hosts
    pg1.psql("CREATE DATABASE legacy")
    pg1.psql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number", database="legacy")
    for host in (pg3, pg1, pg2):
        host.put("/etc/pgpool2/cluster.yml", cluster.cluster_yml)
        host.put("/etc/pgpool2/cluster.key", f"{cluster.key}\n", mode=0o600)
        host.run(INSTALL, seconds=100)
    cluster.wait_healthy()
    assert cluster.writable() == ["pg1"]
    assert set(cluster.checksums("legacy").values()) == {cluster.checksums("legacy")["pg1"]}
    assert pg2.psql("SELECT count(*) FROM kept", database="legacy") == "1000"
    assert {host.run("cat /etc/pgpool2/cluster.yml") for host in hosts} == {cluster.cluster_yml.strip()}


@on_hosts("alone")
def test_without_configuration_the_server_is_a_cluster_of_one(hosts: tuple[Host, ...]) -> None:
    (alone,) = hosts
    cluster = Cluster.of(hosts)
    alone.psql("CREATE TABLE kept AS SELECT 42 AS answer")
    alone.run(INSTALL)
    cluster.wait_healthy(60)
    assert [(node.name, node.role) for node in cluster.status().nodes.values()] == [("alone", "primary")]
    cluster.add_app()
    alone.psql("GRANT SELECT ON kept TO app")
    assert cluster.ask("SELECT answer FROM kept", at=alone, database="postgres") == "42"


@pytest.mark.thorough
@on_hosts("pg1 pg2")
def test_databases_that_no_other_node_has_are_never_deleted(hosts: tuple[Host, ...]) -> None:
    pg1, pg2 = hosts
    cluster = Cluster.of(hosts)
    pg2.psql("CREATE DATABASE precious")
    pg2.psql("CREATE TABLE kept AS SELECT 42 AS answer", database="precious")
    cluster.seed()
    together(lambda host: host.run(INSTALL), hosts)
    cluster.until(lambda status: status.nodes["pg1"].role == "primary", "pg1 founds the cluster", 60)
    pg2.until("journalctl -u pgpool2-cluster | grep -q precious", 60)
    said = pg2.attempt("pgpoolctl status").output
    assert "precious" in said
    assert "hint" in said or "pg_dump" in said, said
    assert not cluster.status().healthy
    pg2.reboot()
    pg2.run("dpkg-reconfigure -f noninteractive pgpool2-cluster")
    assert pg2.psql("SELECT answer FROM kept", database="precious") == "42"
    pg2.psql("DROP DATABASE precious")
    cluster.wait_healthy(90, pg1)
    assert cluster.writable() == ["pg1"]
