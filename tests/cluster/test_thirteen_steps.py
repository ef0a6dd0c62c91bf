"""The thirteen steps of 2008: each end state is reached today without manual steps (docs/how-to)."""

from __future__ import annotations

import pytest
from tests.cluster.cluster import PCP, Cluster, through_pgpool
from tests.cluster.conftest import NAMES, Standing
from tests.host import together

ARCHIVE = "/var/lib/postgresql-archive"
PGPOOL_CONF = "/etc/pgpool2/cluster/pgpool.conf"
PGDATA = "$(echo /var/lib/postgresql/*/main)"


@pytest.fixture(scope="module")
def cluster(standing: Standing) -> Cluster:
    return standing.well("native_replication")


def everywhere(cluster: Cluster, script: str) -> list[str]:
    return list(together(lambda host: host.run(script), cluster.hosts))


def settings(cluster: Cluster, *names: str) -> list[str]:
    wanted = ", ".join(f"'{name}'" for name in names)
    sql = f"SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ({wanted})"  # noqa: S608
    return list(together(lambda host: host.psql(sql), cluster.hosts))


def test_01_packages_and_no_compiler(cluster: Cluster) -> None:
    for found in everywhere(cluster, "dpkg-query -W -f '${Package} ' 'postgresql-*-pgpool2' pgpool2; which gcc || :"):
        assert "pgpool2" in found
        assert "gcc" not in found


def test_02_the_archive_belongs_to_postgres_alone(cluster: Cluster) -> None:
    assert everywhere(cluster, f"stat -c '%U:%G %a' {ARCHIVE}") == ["postgres:postgres 700"] * 3


def test_03_ssh_between_the_postgres_users_for_only_one_program(cluster: Cluster) -> None:
    for host in cluster.hosts:
        for other in cluster.others(host):
            ssh = f"runuser -u postgres -- ssh -F /etc/pgpool2/cluster/ssh_config {other} id"
            assert "for pgpool2-cluster only" in host.attempt(ssh).output


def test_04_the_three_archive_settings_and_files_arrive(cluster: Cluster) -> None:
    for found in settings(cluster, "archive_mode", "archive_command", "archive_timeout"):
        assert "archive_mode=on" in found
        assert "archive_timeout=60" in found
        assert "archive-wal" in found
    for host in cluster.hosts:
        name = host.psql("SELECT pg_walfile_name(pg_switch_wal())")
        host.until(f"[ -s {ARCHIVE}/{name} ]", 20)


def test_05_pgpool_conf(cluster: Cluster) -> None:
    wanted = ("backend_clustering_mode = 'native_replication'", "load_balance_mode = on", "backend_hostname2 = ",
              "recovery_1st_stage_command = ", "recovery_2nd_stage_command = 'recovery_2nd_stage'")  # fmt: skip
    for text in everywhere(cluster, f"cat {PGPOOL_CONF}"):
        assert [line for line in wanted if line not in text] == []


def test_06_pcp_conf(cluster: Cluster) -> None:
    pcp = PCP.format("pcp_node_count")
    assert everywhere(cluster, pcp) == ["3"] * 3


@pytest.mark.parametrize("name", ["recovery_1st_stage", "recovery_2nd_stage", "pgpool_remote_start"],
                         ids=["07-first-stage", "08-second-stage", "09-remote-start"])  # fmt: skip
def test_the_scripts_are_where_pgpool_looks_for_them(cluster: Cluster, name: str) -> None:
    assert everywhere(cluster, f"cd {PGDATA}; stat -c '%U %a' {name}") == ["postgres 700"] * 3


def test_10_all_nodes_hold_what_the_first_held(cluster: Cluster) -> None:
    system = "SELECT system_identifier FROM pg_control_system()"
    assert len(set(together(lambda host: host.psql(system), cluster.hosts))) == 1
    assert len(set(cluster.contents().values())) == 1


def test_11_an_administration_interface(cluster: Cluster) -> None:
    status = cluster.status()
    assert status.healthy
    assert list(status.nodes) == list(NAMES)


def test_12_the_c_function_is_in_template1(cluster: Cluster) -> None:
    sql = "SELECT count(*) FROM pg_proc WHERE proname = 'pgpool_recovery'"
    for host in cluster.hosts:
        assert int(host.psql(sql, database="template1")) > 0


def test_13_detach_recover_attach(cluster: Cluster) -> None:
    pg1, pg2, pg3 = cluster.hosts
    pg1.run("pgpoolctl detach pg2")
    pg3.run(through_pgpool(pg3, pg3, "CREATE TABLE without_pg2 AS SELECT 1 AS number"))
    assert "pgpoolctl recover pg2" in pg1.attempt("pgpoolctl attach pg2").output
    pg1.run("pgpoolctl recover pg2", seconds=200)
    cluster.wait_healthy(30)
    assert pg2.psql("SELECT number FROM without_pg2", database="app") == "1"
    assert len(set(cluster.contents().values())) == 1
    cluster.ask("DROP TABLE without_pg2", at=pg1)
