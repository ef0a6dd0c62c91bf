"""Installed on a tuned server with replication, it keeps the server serving, or is refused before any change."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import DATA, INSTALL, Cluster
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.host import Host, together

pytestmark = pytest.mark.thorough

TUNED = {
    "listen_addresses": "*",
    "wal_level": "logical",
    "max_replication_slots": "50",
    "max_wal_senders": "65",
    "max_worker_processes": "32",
    "max_locks_per_transaction": "256",
    "max_prepared_transactions": "50",
    "shared_preload_libraries": "pg_stat_statements",
    "archive_mode": "on",
    "archive_command": "cp %p /var/tmp/archived/%f",
}
"""Settings as from pgtune, Debezium's guide and a backup program."""
OF_ALL = [name for name in TUNED if name.startswith(("max_", "shared", "wal"))]
"""Parameters with the same values on standbys as on the primary."""
PECULIAR = """
SET password_encryption = 'md5';
CREATE ROLE old LOGIN PASSWORD 'of-old';
CREATE TABLE written (at timestamptz DEFAULT now());
GRANT ALL ON written TO old;
CREATE PUBLICATION changes FOR TABLE written;
SELECT pg_create_logical_replication_slot('debezium', 'pgoutput');
SELECT pg_create_physical_replication_slot('p' || i) FROM generate_series(1, 17) i;
"""
WRITING = """
systemd-run --quiet --unit=writing --uid=postgres sh -c '
    while :; do psql -XAtq -c "INSERT INTO written DEFAULT VALUES" || date +%s >>/var/tmp/missed; sleep 0.2; done'
"""
STARTED = "zgrep -hc 'database system is ready to accept connections' /var/log/postgresql/*-main.log"
STATE = "cat $(find /etc/postgresql -type f | sort) | sha256sum; systemctl show -P MainPID 'postgresql@*'"
CHANGES = """
SELECT count(*) > 0
FROM pg_logical_slot_peek_binary_changes('debezium', NULL, 1, 'proto_version', '1', 'publication_names', 'changes')
"""
BACK_OUT = {
    "postgres": """
SELECT pg_reload_conf();
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name IN ('pg1', 'pg2', 'pg3');
DROP DATABASE IF EXISTS pgpool_cluster;
DROP EXTENSION IF EXISTS pgpool_recovery, pgpool_adm;
DROP OWNED BY pgpool_recovery, pgpool_replication, pgpool_check;
DROP ROLE pgpool_recovery, pgpool_replication, pgpool_check;
""",
    "template1": "DROP EXTENSION IF EXISTS pgpool_recovery, pgpool_adm",
}
"""The procedure in docs/how-to/put-it-on-running-postgresql.md."""
GAP = "SELECT max(gap) < '60 s' FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM written) AS gaps"
"""The longest wait of a client, including the one restart."""
OLD = "PGPASSWORD=of-old psql -XAtq 'host={} dbname=postgres user=old sslmode={}' -c 'SELECT count(*) > 0 FROM written'"


@pytest.fixture
def hosts(room: Lab, of_release: Images, request: pytest.FixtureRequest) -> Iterator[tuple[Host, ...]]:
    """New hosts with PostgreSQL and pgpool-II, with the names in the test's mark."""
    booted = room.boot(of_release.prepared, *str(request.param).split())
    yield booted
    room.remove(booted)


def tune(host: Host, **parameters: str) -> None:
    """Write parameters into one of the server's own files, and restart it."""
    text = "".join(f"{name} = '{value}'\n" for name, value in parameters.items())
    host.put("/root/00.conf", text)
    host.run("install -d -o postgres /var/tmp/archived; cp /root/00.conf $(echo /etc/postgresql/*/main/conf.d)/00.conf")
    host.run("systemctl restart 'postgresql@*-main.service'")


def shown(host: Host, *names: str) -> dict[str, str]:
    """Return the current values of parameters."""
    return {name: host.psql(f"SHOW {name}") for name in names}


@pytest.mark.parametrize("hosts", ["pg1 pg2 pg3"], indirect=True)
def test_a_tuned_server_keeps_serving_and_its_standbys_match_it(hosts: tuple[Host, ...]) -> None:
    """It used not to restart (wal_level), and its standbys waited for an administrator (max_worker_processes)."""
    pg1, pg2, _ = hosts
    cluster = Cluster.of(hosts)
    tune(pg1, **TUNED)
    pg1.psql(PECULIAR)
    pg1.run(f"echo 'host all old {cluster.network} md5' >>$(echo /etc/postgresql/*/main/pg_hba.conf)")
    pg1.run(WRITING)
    started = int(pg1.run(STARTED))
    cluster.seed()
    together(lambda host: host.run(INSTALL), hosts)
    cluster.wait_healthy()
    assert int(pg1.run(STARTED)) <= started + 1
    assert shown(pg1, *TUNED) == TUNED
    for host in cluster.others(pg1):
        assert shown(host, *OF_ALL) == {name: TUNED[name] for name in OF_ALL}
    assert pg1.psql("SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^(debezium|p[0-9]+)$'") == "18"
    assert pg1.psql(CHANGES) == "t"
    for at in (pg1, pg2):
        for mode in ("require", "disable"):
            assert at.run(OLD.format(pg1.address, mode)) == "t"
    pg1.run("systemctl stop writing")
    assert pg1.psql(GAP) == "t"
    pg1.psql("SELECT pg_switch_wal()")
    pg1.until('[ -n "$(ls /var/tmp/archived)" ]', 30)
    together(lambda host: host.run("apt-get purge -y -q pgpool2-cluster </dev/null", seconds=120), hosts)
    for database, sql in BACK_OUT.items():
        pg1.psql(sql, database=database)
    pg1.run("systemctl restart 'postgresql@*-main.service'")
    assert pg1.psql("SELECT count(*) FROM pg_roles WHERE rolname ~ '^pgpool_'") == "0"
    assert pg1.psql("SELECT count(*) FROM pg_database WHERE datname = 'pgpool_cluster'") == "0"
    assert pg1.psql("SELECT count(*) FROM pg_replication_slots") == "18"
    assert shown(pg1, *TUNED) == TUNED
    assert pg1.run("ls /etc/postgresql/*/main/conf.d") == "00.conf"
    assert pg1.run(OLD.format(pg1.address, "require")) == "t"


@pytest.mark.parametrize("hosts", ["alone"], indirect=True)
def test_settings_that_cannot_be_kept_are_refused_before_any_change(hosts: tuple[Host, ...]) -> None:
    (alone,) = hosts
    cluster = Cluster.of(hosts)
    tune(alone, wal_level="logical", synchronous_standby_names="dr")
    alone.psql("SET synchronous_commit = local; SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
    before = alone.run(STATE)
    alone.run("install -d /etc/pgpool2")
    alone.put("/etc/pgpool2/cluster.yml", f"{cluster.cluster_yml}postgresql_conf: {{wal_level: replica}}\n")
    alone.put("/etc/pgpool2/cluster.key", f"{cluster.key}\n", mode=0o600)
    alone.run(INSTALL)
    began = time.monotonic()
    answer = alone.attempt("pgpoolctl check --before")
    assert time.monotonic() - began < 3
    assert answer.status == 1, answer.output
    refused = [line for line in answer.output.splitlines() if line.startswith("refused")]
    assert [line.split()[1] for line in refused] == ["wal_level:", "synchronous_standby_names:"]
    assert "postgresql_conf: {wal_level: logical}" in refused[0]
    said = alone.attempt("pgpoolctl status 2>&1").output
    assert "nothing is changed on this server" in said
    assert "wal_level: logical" in said
    assert alone.run(STATE) == before
    alone.run("sed -i s/wal_level:.replica/wal_level:\\ logical/ /etc/pgpool2/cluster.yml")
    alone.run("sed -i /synchronous/d $(echo /etc/postgresql/*/main/conf.d/00.conf); pgpoolctl apply")
    cluster.wait_healthy(60)
    assert alone.run(f"ls {DATA}/pg_replslot") == "debezium"
    assert shown(alone, "wal_level") == {"wal_level": "logical"}
