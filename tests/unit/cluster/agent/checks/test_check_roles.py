"""Faults of the cluster's roles and of pgpool-II's users, each found by its own check."""

from __future__ import annotations

import pytest
from tests.unit.cluster.checked import ROWS, Break, Machine, check_of


def role(name: str, *, lacks: int) -> Break:
    """Return a fault: the role has lost the right in this column of the query.

    1 LOGIN, 2 a password that has not expired, 3 no limit, 4 SUPERUSER, 5 REPLICATION, 6 pg_monitor.
    """

    def changed(row: tuple[object, ...]) -> tuple[object, ...]:
        return (*row[:lacks], False, *row[lacks + 1 :]) if row[0] == name else row

    return lambda machine: machine.rows("rolconnlimit", *map(changed, ROWS["rolconnlimit"]))


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: m.rows("coalesce(rolpassword", ("v1",), ("v2",), ("old",)),
                     "the cluster's roles have the passwords derived from cluster.key", "their passwords differ",
                     "pgpoolctl apply", id="passwords"),
        pytest.param(role("pgpool_check", lacks=1), "the cluster's roles have their rights",
                     "pgpool_check may not log in", "'ALTER ROLE pgpool_check LOGIN'", id="login"),
        pytest.param(role("pgpool_recovery", lacks=2), "the cluster's roles have their rights",
                     "pgpool_recovery has a password that has expired",
                     "ALTER ROLE pgpool_recovery VALID UNTIL", id="expired"),
        pytest.param(role("pgpool_check", lacks=3), "the cluster's roles have their rights",
                     "pgpool_check has a connection limit", "'ALTER ROLE pgpool_check CONNECTION LIMIT -1'",
                     id="limit"),
        pytest.param(role("pgpool_recovery", lacks=4), "the cluster's roles have their rights",
                     "pgpool_recovery is not a superuser", "'ALTER ROLE pgpool_recovery SUPERUSER'", id="superuser"),
        pytest.param(role("pgpool_replication", lacks=5), "the cluster's roles have their rights",
                     "pgpool_replication may not replicate", "'ALTER ROLE pgpool_replication REPLICATION'",
                     id="replication"),
        pytest.param(role("pgpool_check", lacks=6), "the cluster's roles have their rights",
                     "pgpool_check is not a member of pg_monitor", "'GRANT pg_monitor TO pgpool_check'", id="monitor"),
        pytest.param(lambda m: m.becomes(own_database=False), "the cluster's roles have their own database",
                     "it is missing", "pgpoolctl converge --once", id="own database"),
        pytest.param(lambda m: m.rows("coalesce(rolvaliduntil"), "pgpool-II's users can log in", "no role app",
                     "pgpoolctl user set app", id="no user"),
        pytest.param(lambda m: m.rows("coalesce(rolvaliduntil", ("app", False, False, "SCRAM-SHA-256$")),
                     "pgpool-II's users can log in", "the role app may not log in",
                     """-c 'ALTER ROLE "app" LOGIN'""", id="a user without LOGIN"),
    ],
)  # fmt: skip
def test_a_fault_of_a_role_fails_only_its_own_check(break_: Break, what: str, why: str, fix: str, pg1: Machine) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_a_standby_does_not_check_the_roles_of_its_primary(standby: Machine) -> None:
    standby.rows("coalesce(rolpassword", ("old",))
    role("pgpool_check", lacks=1)(standby)
    assert standby.failed() == []
