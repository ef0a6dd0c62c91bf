"""The files on a server are complete with the right owners, all connections encrypted, and secrets hidden."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import APP, DATA, Cluster, through_pgpool
from tests.host import Host, together

from pgpool_cluster.definition import key as keys

LAID_DOWN = {
    "/etc/pgpool2/cluster.key": "600 root:root",
    "/etc/pgpool2/cluster.yml": "644 root:root",
    "/etc/pgpool2/cluster/pgpool.conf": "640 root:postgres",
    "/etc/pgpool2/cluster/pool_hba.conf": "640 root:postgres",
    "/etc/pgpool2/cluster/pcp.conf": "640 root:postgres",
    "/etc/pgpool2/cluster/heartbeat_key": "600 postgres:postgres",
    "/etc/pgpool2/cluster/peers.nft": "644 root:root",
    "/etc/pgpool2/cluster/pool_passwd": "600 postgres:postgres",
    "/etc/pgpool2/cluster/pgpool_node_id": "644 root:root",
    "/etc/pgpool2/cluster/pg_service.conf": "644 root:root",
    "/var/lib/postgresql/.pgpass": "600 postgres:postgres",
    "/var/lib/postgresql/.pcppass": "600 postgres:postgres",
    "/var/lib/postgresql/.pgpoolkey": "600 postgres:postgres",
    f"{DATA}/recovery_1st_stage": "700 postgres:postgres",
    f"{DATA}/pgpool_remote_start": "700 postgres:postgres",
}
CONFIGURATION = f"""
for file in $(find /etc /var/lib/postgresql/.??* {DATA}/recovery_1st_stage {DATA}/pgpool_remote_start -type f | sort)
do stat -c '%n %a %U:%G' "$file"; sha256sum "$file"; done
"""
PATTERNS = "/run/patterns"
WATCH = f"""
while [ ! -e /run/watch.end ]; do
    cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -aFf {PATTERNS} || :
    echo looked; sleep 0.02
done >/run/watch.log
"""
RECONFIGURE = """
for number in $(seq {times}); do
    dpkg-reconfigure -f noninteractive pgpool2-cluster </dev/null && echo succeeded
done >/run/reconfigure.log
"""


@pytest.fixture(scope="module")
def secrets(cluster: Cluster) -> dict[str, str]:
    """All secrets derived from cluster.key; every host has them in PATTERNS, readable only by root."""
    key = keys.parse(cluster.key, "cluster.key")
    passwords = {role.value: key.password(role) for role in keys.Role}
    found = {
        "the key": cluster.key.removeprefix(keys.PREFIX),
        "pcp": key.pcp_password,
        "wd_authkey": key.watchdog_key,
        "heartbeat_key": key.heartbeat_key,
        ".pgpoolkey": key.pool_key,
        "pcp.conf": keys.pcp_conf_entry(key.pcp_password),
        **passwords,
        **{f"pool_passwd of {role}": key.pool_passwd_entry(password) for role, password in passwords.items()},
    }
    together(lambda host: host.put(PATTERNS, "".join(f"{secret}\n" for secret in found.values()), mode=0o600),
             cluster.hosts)  # fmt: skip
    return found


@pytest.fixture(scope="module")
def reconfigured(cluster: Cluster, pg3: Host, times: int) -> Iterator[str]:
    """Configure pg3 repeatedly while the other tests of this module run; return its files from before."""
    before = pg3.run(CONFIGURATION)
    pg3.put("/root/reconfigure.sh", RECONFIGURE.format(times=times))
    pg3.run("systemd-run -q --unit=reconfigure sh /root/reconfigure.sh")
    yield before
    pg3.run("systemctl stop reconfigure 2>/dev/null || :")


@pytest.fixture(scope="module")
def watched(cluster: Cluster, secrets: dict[str, str], reconfigured: str) -> dict[str, str]:
    """Command lines with a secret, by host, during all operations that handle secrets."""
    for host in cluster.hosts:
        host.put("/root/watch.sh", WATCH)
        host.run("rm -f /run/watch.end; systemd-run -q --unit=watch sh /root/watch.sh")
    pg1, pg2, _ = cluster.hosts
    pg1.run("pgpoolctl apply; pgpoolctl check || :; echo of-watched | pgpoolctl user set watched --password-stdin")
    pg2.run("systemctl stop 'postgresql@*'; pgpoolctl recover pg2", seconds=200)
    cluster.wait_healthy()
    pg1.run("pgpoolctl user remove watched; systemctl restart pgpool2-cluster")
    cluster.wait_healthy()
    together(lambda host: host.run("touch /run/watch.end"), cluster.hosts)
    return {host.name: host.run("cat /run/watch.log") for host in cluster.hosts}


@pytest.mark.parametrize("path", LAID_DOWN)
def test_every_file_has_its_owner_and_mode(cluster: Cluster, path: str) -> None:
    for host in cluster.hosts:
        assert host.run(f"stat -c '%a %U:%G' {path}") == LAID_DOWN[path], host


def test_extensions_roles_and_slots_exist(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    for database in ("postgres", "template1"):
        assert "pgpool_recovery" in pg2.psql("SELECT extname FROM pg_extension", database=database)
    logins = "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolname LIKE 'pgpool%'"
    assert set(pg2.psql(logins).split()) == {role.value for role in keys.Role}
    assert pg2.psql(f"{logins} AND rolpassword NOT LIKE 'SCRAM-SHA-256$%'") == ""
    slots = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' AND active ORDER BY 1"
    assert pg1.psql(slots).split() == ["pg2", "pg3"]


def test_no_secret_is_world_readable(cluster: Cluster, secrets: dict[str, str]) -> None:
    where = "/ /run /tmp /dev/shm -xdev -ignore_readdir_race -type f -perm /o=r"
    script = f"find {where} -exec grep -lasFf {PATTERNS} {{}} + || :"
    assert secrets
    assert together(lambda host: host.run(script), cluster.hosts) == ("", "", "")


def test_debconf_keeps_no_copy_of_the_key(cluster: Cluster, secrets: dict[str, str]) -> None:
    assert secrets
    for host in cluster.hosts:
        assert host.run(f"grep -rlasFf {PATTERNS} /var/cache/debconf /var/lib/dpkg /var/log || :") == "", host


def test_the_scan_for_secrets_finds_one(pg1: Host, secrets: dict[str, str]) -> None:
    assert secrets
    assert "/etc/pgpool2/cluster.key" in pg1.run(f"grep -rlaFf {PATTERNS} /etc/pgpool2").splitlines()


def test_no_command_line_has_a_secret(watched: dict[str, str]) -> None:
    for host, lines in watched.items():
        assert set(lines.splitlines()) == {"looked"}, host


def test_no_secret_is_in_the_journal(cluster: Cluster, secrets: dict[str, str], watched: dict[str, str]) -> None:
    assert secrets
    assert watched
    for host in cluster.hosts:
        assert host.run(f"journalctl --no-pager -a | grep -aFf {PATTERNS} || :") == "", host


def test_nothing_disables_the_check_of_host_keys(cluster: Cluster) -> None:
    where = "/etc /usr/lib/pgpool2-cluster /usr/bin/pgpoolctl /var/lib/postgresql/.ssh"
    for host in cluster.hosts:
        found = host.run(f"grep -rsEIi 'StrictHostKeyChecking[= ]+(no|off|accept)' {where} | grep -v ':#' || :")
        assert found == "", host
        assert host.run("grep -rl pgpool /etc/sudoers /etc/sudoers.d 2>/dev/null || :") == "", host


def test_ssh_between_the_nodes_runs_only_one_program(pg1: Host) -> None:
    ssh = "runuser -u postgres -- ssh -F /etc/pgpool2/cluster/ssh_config pg2"
    answer = pg1.attempt(f"{ssh} 'echo broken out of; id' </dev/null", seconds=30)
    assert "broken out" not in answer.output
    assert "uid=" not in answer.output
    assert "Host key verification failed" not in answer.output


def test_remote_clients_must_use_tls(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    command = through_pgpool(pg1, pg2, "\\conninfo")
    assert "SSL connection" in pg1.run(command)
    without = pg1.attempt(command.replace("sslmode=require", "sslmode=disable"))
    assert without.status != 0, without.output


def test_pgpool_and_standbys_connect_to_postgresql_with_tls(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    """Sessions stay open in pgpool-II's pool, so those of an earlier query still exist."""
    cluster.ask("CREATE TABLE IF NOT EXISTS tls (x int)", at=pg1, through=pg2)
    sessions = pg1.psql(
        "SELECT ssl, usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL"
    ).splitlines()
    assert f"t|{APP}" in sessions
    assert sessions.count(f"t|{keys.Role.REPLICATION}") == 2
    assert [session for session in sessions if not session.startswith("t|")] == []


@pytest.mark.parametrize(
    ("unit", "most"), [("pgpool2", 4.0), ("pgpool2-cluster", 1.8), ("pgpool2-cluster-control@0", 6.7)]
)
def test_no_unit_is_more_exposed_than_before(pg1: Host, unit: str, most: float) -> None:
    """`most`: the exposure by systemd-analyze of the units in 21297de; for pgpool2, the required value."""
    exposure = pg1.run(f"systemd-analyze security --no-pager {unit}.service | tail -n 1")
    assert float(exposure.split(":")[1].split()[0]) <= most, exposure


def test_pgpools_unit_restarts(cluster: Cluster, pg1: Host) -> None:
    for unit in ("pgpool2", "pgpool2-cluster"):
        assert pg1.run(f"systemctl show -P Restart {unit}") in ("on-failure", "always")
        assert pg1.run(f"systemctl is-enabled {unit}") == "enabled"
    before = pg1.run("systemctl show -P MainPID pgpool2")
    pg1.run("systemctl kill --kill-whom=main --signal=KILL pgpool2")
    pg1.until(f'main=$(systemctl show -P MainPID pgpool2); [ "$main" != 0 ] && [ "$main" != {before} ]', 15)
    cluster.wait_healthy()


def test_repeated_configuration_leaves_every_file_the_same(pg3: Host, reconfigured: str, times: int) -> None:
    pg3.until("! systemctl is-active -q reconfigure", 600)
    assert pg3.run("grep -c succeeded /run/reconfigure.log") == str(times)
    assert pg3.run(CONFIGURATION) == reconfigured
