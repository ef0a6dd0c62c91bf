"""Faults of PostgreSQL's configuration files, each found by its own check with its own fix."""

from __future__ import annotations

import pytest
from tests.unit.cluster.checked import Break, Machine, check_of

AUTO = "/var/lib/postgresql/17/main/postgresql.auto.conf"
LATER = "/etc/postgresql/17/main/conf.d/zz local.conf"
UNIT = "postgresql@17-main.service"


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: m.rows("pending_restart", ("wal_level",)), "PostgreSQL runs with its configuration",
                     "restart required for wal_level", "pgpoolctl restart --pending", id="restart"),
        pytest.param(lambda m: m.configured.update(max_connections=2000), "PostgreSQL runs with its configuration",
                     "restart required for max_connections", "the standbys first", id="higher"),
        pytest.param(lambda m: m.rows("superuser_reserved_connections", (383,)),
                     "max_connections covers all connections", "383 are available for 384",
                     "lower num_init_children or max_pool", id="room"),
        pytest.param(lambda m: m.rows("WHERE sourcefile LIKE %s", (0,)),
                     "/etc/postgresql/17/main/postgresql.conf includes conf.d", "are not read",
                     "include_dir = 'conf.d'", id="conf.d"),
        pytest.param(lambda m: (m.rows("WHERE sourcefile LIKE %s", (0,)), m.configured.update(max_connections=100)),
                     "/etc/postgresql/17/main/postgresql.conf includes conf.d", "are not read",
                     "include_dir = 'conf.d'", id="conf.d, which a restart would not fix"),
        pytest.param(lambda m: m.becomes(laid=False), "commits wait for the configured standbys",
                     "synchronous_standby_names differs", "pgpoolctl apply", id="synchronous"),
        pytest.param(lambda m: m.rows("SELECT sourcefile, sourceline, error", ("/etc/a.conf", 7, "syntax error")),
                     "the configuration files of PostgreSQL have no errors", "/etc/a.conf, line 7: syntax error",
                     f"correct line 7 of /etc/a.conf; then systemctl reload {UNIT}", id="syntax"),
        pytest.param(lambda m: m.rows("pg_hba_file_rules", ("/etc/hba", 9, 'invalid connection type "x"')),
                     "pg_hba.conf has no errors", '/etc/hba, line 9: invalid connection type "x"',
                     f"correct line 9 of /etc/hba; then systemctl reload {UNIT}", id="pg_hba.conf"),
        pytest.param(lambda m: m.rows("NOT last.ours", ("wal_level", "replica", "minimal", AUTO, 3, "")),
                     "nothing overrides the cluster's parameters", "wal_level is minimal, not replica, by ALTER SYSTEM",
                     "psql -X -p 5432 -d postgres -c 'ALTER SYSTEM RESET wal_level' -c 'SELECT pg_reload_conf()'",
                     id="ALTER SYSTEM"),
        pytest.param(lambda m: m.rows("NOT last.ours", ("ssl", "on", "off", LATER, 3, "")),
                     "nothing overrides the cluster's parameters", f"ssl is off, not on, by {LATER}",
                     f"sed -i '3s/^/#/' '{LATER}'; systemctl reload {UNIT}", id="later file"),
        pytest.param(lambda m: m.rows("NOT last.ours", ("wal_keep_size", "1GB", "1MB", LATER, 3, "MB")),
                     "nothing overrides the cluster's parameters", "wal_keep_size is 1MB", "sed", id="smaller"),
        pytest.param(lambda m: m.rows("NOT last.ours", ("wal_sender_timeout", "10s", "1min", LATER, 3, "ms")),
                     "nothing overrides the cluster's parameters", "wal_sender_timeout is 1min", "sed", id="longer"),
        pytest.param(lambda m: (m.rows("NOT last.ours", ("wal_level", "replica", "minimal", AUTO, 3, "")),
                                m.rows("pending_restart", ("wal_level",))),
                     "nothing overrides the cluster's parameters", "wal_level is minimal", "ALTER SYSTEM RESET",
                     id="a restart would put the override in force"),
    ],
)  # fmt: skip
def test_a_fault_of_the_configuration_fails_only_its_own_check(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_each_override_has_its_own_fix(pg1: Machine) -> None:
    pg1.rows("NOT last.ours", ("ssl", "on", "off", LATER, 3, ""), ("wal_level", "replica", "minimal", AUTO, 4, ""))
    assert [check.fix.split()[0] for check in pg1.failed()] == ["sed", "runuser"]


@pytest.mark.parametrize(
    ("name", "ours", "value", "unit"),
    [
        ("ssl", "on", "true", ""),
        ("max_connections", "400", "500", ""),
        ("wal_level", "replica", "logical", ""),
        ("wal_keep_size", "1GB", "1024MB", "MB"),
        ("max_slot_wal_keep_size", "1GB", "2048", "MB"),
    ],
)
def test_a_value_that_serves_the_cluster_as_well_is_no_override(
    name: str, ours: str, value: str, unit: str, pg1: Machine
) -> None:
    pg1.rows("NOT last.ours", (name, ours, value, LATER, 3, unit))
    assert pg1.failed() == []


def test_a_file_with_an_error_is_not_also_reported_as_one_that_lacks_conf_d(pg1: Machine) -> None:
    """PostgreSQL reads nothing after an error."""
    pg1.rows("SELECT sourcefile, sourceline, error", ("/etc/a.conf", 7, "syntax error"))
    pg1.rows("WHERE sourcefile LIKE %s", (0,))
    assert [check.what for check in pg1.failed()] == ["the configuration files of PostgreSQL have no errors"]
